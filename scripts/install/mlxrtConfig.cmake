# find_package(mlxrt) gives the target mlxrt::mlxrt. Paths are relative to this file: the folder may be moved.
get_filename_component(_mlxrt_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_mlxrt_library "${_mlxrt_prefix}/lib/@LIBRARY@")

foreach(_mlxrt_file IN ITEMS "${_mlxrt_library}" "${_mlxrt_prefix}/include/mlxrt.h")
  if(NOT EXISTS "${_mlxrt_file}")
    set(mlxrt_FOUND FALSE)
    set(mlxrt_NOT_FOUND_MESSAGE "${_mlxrt_file} is missing; unpack or install mlxrt again")
  endif()
endforeach()

if(NOT DEFINED mlxrt_FOUND OR mlxrt_FOUND)
  if(NOT TARGET mlxrt::mlxrt)
    add_library(mlxrt::mlxrt SHARED IMPORTED)
    set_target_properties(mlxrt::mlxrt PROPERTIES
      IMPORTED_LOCATION "${_mlxrt_library}"
      IMPORTED_SONAME "@SONAME@"
      INTERFACE_INCLUDE_DIRECTORIES "${_mlxrt_prefix}/include")
  endif()
endif()

unset(_mlxrt_file)
unset(_mlxrt_library)
unset(_mlxrt_prefix)
