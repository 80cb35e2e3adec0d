# link_as_before_2_34(TARGET): let what TARGET already links find threads, dlopen and shared memory
# under the versions that they had before glibc 2.34.
#
# glibc 2.34 moved them into libc, under new versions, beside the old ones. A linker takes the new
# ones, and the result needs that glibc. The static CUDA runtime calls many of them. Here the linker
# finds empty libraries first, which have the names and versions of the old ones, and are not
# installed: the real ones of every glibc take their places when the module is loaded.

set(old_libpthread.so.0
  pthread_condattr_setpshared pthread_create pthread_detach pthread_getspecific pthread_join
  pthread_key_create pthread_key_delete pthread_kill pthread_mutex_trylock pthread_mutexattr_destroy
  pthread_mutexattr_init pthread_mutexattr_setpshared pthread_mutexattr_settype pthread_once
  pthread_rwlock_destroy pthread_rwlock_init pthread_rwlock_rdlock pthread_rwlock_timedrdlock
  pthread_rwlock_timedwrlock pthread_rwlock_tryrdlock pthread_rwlock_trywrlock
  pthread_rwlock_unlock pthread_rwlock_wrlock pthread_rwlockattr_destroy pthread_rwlockattr_init
  pthread_rwlockattr_setpshared pthread_setspecific pthread_spin_destroy pthread_spin_init
  pthread_spin_lock pthread_spin_trylock pthread_spin_unlock sem_destroy sem_init sem_post
  sem_timedwait sem_trywait sem_wait)
set(old_libdl.so.2 dlclose dlerror dlopen dlsym dlvsym)
set(old_librt.so.1 shm_open shm_unlink)

function(link_as_before_2_34 target)
  if(TORCHOPT_X86)
    set(version GLIBC_2.2.5)
    set(added "GLIBC_2.3.4 { dlmopen; } GLIBC_2.2.5;\n")
  elseif(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    set(version GLIBC_2.17)
    list(APPEND old_libdl.so.2 dlmopen)
  else()
    return()
  endif()
  foreach(library libpthread.so.0 libdl.so.2 librt.so.1)
    set(folder "${CMAKE_CURRENT_BINARY_DIR}/older_glibc/${library}")
    list(JOIN old_${library} "; " names)
    set(map "${version} { ${names}; };\n")
    set(functions ${old_${library}})
    if(library STREQUAL "libdl.so.2" AND added)
      string(APPEND map "${added}")
      list(APPEND functions dlmopen)
    endif()
    list(TRANSFORM functions REPLACE "(.+)" "extern \"C\" void \\1() {}\n")
    list(JOIN functions "" source)
    file(CONFIGURE OUTPUT "${folder}.map" CONTENT "${map}" @ONLY)
    file(CONFIGURE OUTPUT "${folder}.cpp" CONTENT "${source}" @ONLY)
    add_library(older_${library} SHARED "${folder}.cpp")
    set_target_properties(older_${library} PROPERTIES
      NO_SONAME ON CXX_VISIBILITY_PRESET default LIBRARY_OUTPUT_DIRECTORY "${folder}")
    target_compile_options(older_${library} PRIVATE -fno-builtin)
    target_link_options(older_${library} PRIVATE
      -nostdlib "-Wl,-soname,${library}" "-Wl,--version-script=${folder}.map")
    target_link_libraries(${target} PRIVATE older_${library})
  endforeach()
  # The path of the empty libraries is for the linker only.
  set_target_properties(${target} PROPERTIES SKIP_BUILD_RPATH ON)
endfunction()
