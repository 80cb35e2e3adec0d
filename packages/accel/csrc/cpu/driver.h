#pragma once

#include <string>

#include "../problem.h"

namespace torchopt {

// Runs on up to `threads` threads, without the interpreter lock.
void run_on_cpu(const Problem& problem, int threads);

std::vector<std::string> supported_isas();
std::string current_isa();
// Throws std::invalid_argument if this machine does not support it.
void use_isa(const std::string& name);

}  // namespace torchopt
