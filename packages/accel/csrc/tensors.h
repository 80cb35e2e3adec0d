// What a DLTensor says of a tensor.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "dlpack.h"

namespace torchopt {

uintptr_t address(const DLTensor& tensor);

int64_t elements(const DLTensor& tensor);

// Returns kDtypes for a dtype that the kernels do not have.
int dtype_of(const DLTensor& tensor);

bool is_on(const DLTensor& tensor, bool cpu, int device);

bool is_contiguous(const DLTensor& tensor);

// Tells whether the elements fill a range of memory, in any order of the dimensions.
bool is_dense(const DLTensor& tensor);

// Tells whether two tensors have the same dtype.
bool same_kind(const DLTensor& a, const DLTensor& b);

// Tells whether two tensors have the same shape and their elements the same order in memory. The
// strides of a dimension of size 1, and of an empty tensor, do not matter.
bool same_order(const DLTensor& a, const DLTensor& b);

// Where memory begins and ends.
using Range = std::pair<uintptr_t, uintptr_t>;

// Tells whether any two ranges, none of them empty, overlap. Sorts them.
bool overlap(std::vector<Range>& ranges);

}  // namespace torchopt
