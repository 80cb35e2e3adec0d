#include "torch_table.h"

namespace torchopt {

const TorchTable* table_of(nanobind::handle type) {
  constexpr uint32_t kMajor = 1;
  constexpr const char* kName = "dlpack_exchange_api";
  nanobind::object capsule = nanobind::getattr(type, "__dlpack_c_exchange_api__", nanobind::none());
  if (!PyCapsule_IsValid(capsule.ptr(), kName)) return nullptr;
  auto* table = static_cast<TorchTable*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  while (table && table->version.major > kMajor) table = table->older;
  const bool known = table && table->version.major == kMajor && table->tensor_from_object;
  return known ? table : nullptr;
}

}  // namespace torchopt
