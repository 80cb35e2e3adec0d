// The functions that torch offers since 2.10 through DLPack's exchange API
// (https://dmlc.github.io/dlpack), which take and give tensors without a call of Python.
#pragma once

#include <nanobind/nanobind.h>

#include "dlpack.h"

namespace torchopt {

// The start of DLPackExchangeAPI. Versions with the same major number begin alike.
struct TorchTable {
  struct {
    uint32_t major, minor;
  } version;
  TorchTable* older;
  void* allocate;
  void* managed_from_object;
  // Takes over the memory, also if it fails, which it does with an exception of Python.
  int (*object_from_managed)(DLManagedTensorVersioned* managed, void** object);
  // Lends shape and strides for as long as the object lives. The object must be a tensor.
  int (*tensor_from_object)(void* object, DLTensor* tensor);
};

// Returns the table of a type of tensors, or null if there is none that is known here.
const TorchTable* table_of(nanobind::handle type);

}  // namespace torchopt
