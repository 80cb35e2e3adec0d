// GCC 11 and later call this function for an array that is too long; libstdc++ has it from then on
// only. With a copy of our own, a wheel runs with every libstdc++ with which torch runs. Weak, in
// case that the linker finds another copy.
#include <new>

#ifdef __GLIBCXX__
namespace std {
__attribute__((weak)) void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std
#endif
