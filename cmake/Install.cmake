# The install tree: bin/, include/, lib/ with the CMake package qwen3_mlx, and
# in lib/qwen3_mlx/ the libraries that come along. Everything finds everything
# by relative paths, so that the tree can be moved. CPack packs the same tree.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(QWEN3_MLX_BUNDLE_DIR ${CMAKE_INSTALL_LIBDIR}/qwen3_mlx)
set(QWEN3_MLX_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/qwen3_mlx)
string(REGEX MATCH "^[0-9]+\\.[0-9]+" QWEN3_MLX_MLX_SERIES
             ${QWEN3_MLX_MLX_VERSION})

set(qwen3_mlx_libraries qwen3_mlx_text)
if(TARGET qwen3_mlx)
  list(APPEND qwen3_mlx_libraries qwen3_mlx)
endif()
install(
  TARGETS ${qwen3_mlx_libraries}
  EXPORT qwen3_mlxTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/qwen3_mlx
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(
  EXPORT qwen3_mlxTargets
  NAMESPACE qwen3_mlx::
  DESTINATION ${QWEN3_MLX_CMAKE_DIR})
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/qwen3_mlxConfig.cmake.in
  ${PROJECT_BINARY_DIR}/qwen3_mlxConfig.cmake
  INSTALL_DESTINATION ${QWEN3_MLX_CMAKE_DIR}
  PATH_VARS QWEN3_MLX_BUNDLE_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/qwen3_mlxConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(
  FILES ${PROJECT_BINARY_DIR}/qwen3_mlxConfig.cmake
        ${PROJECT_BINARY_DIR}/qwen3_mlxConfigVersion.cmake
        ${PROJECT_SOURCE_DIR}/cmake/Utf8proc.cmake
  DESTINATION ${QWEN3_MLX_CMAKE_DIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md
        DESTINATION ${CMAKE_INSTALL_DOCDIR})

# MLX out of a wheel lies in an environment that may go away: it is installed
# along, in the wheel's own layout, because libmlx looks for its companions
# (BLAS, LAPACK) in ../../mlx_cpu.libs.
if(MLX_FOUND)
  get_filename_component(mlx_package ${MLX_DIR}/../../.. ABSOLUTE)
  get_filename_component(mlx_site ${mlx_package} DIRECTORY)
  file(GLOB mlx_wheels ${mlx_site}/mlx-*.dist-info)
endif()
if(mlx_wheels)
  install(DIRECTORY ${mlx_package}/lib ${mlx_package}/include
                    ${mlx_package}/share
          DESTINATION ${QWEN3_MLX_BUNDLE_DIR}/mlx)
  file(GLOB mlx_companions ${mlx_site}/mlx_*.libs)
  install(DIRECTORY ${mlx_companions} DESTINATION ${QWEN3_MLX_BUNDLE_DIR})
endif()

if(TARGET qwen3-mlx)
  if(APPLE)
    set(origin "@loader_path")
  else()
    set(origin "$ORIGIN")
    # DT_RPATH instead of DT_RUNPATH: it also serves what libraries need.
    target_link_options(qwen3-mlx PRIVATE -Wl,--disable-new-dtags)
  endif()
  file(RELATIVE_PATH bundle_from_bin /${CMAKE_INSTALL_BINDIR}
       /${QWEN3_MLX_BUNDLE_DIR})
  set_target_properties(
    qwen3-mlx
    PROPERTIES
      INSTALL_RPATH
      "${origin}/${bundle_from_bin};${origin}/${bundle_from_bin}/mlx/lib")
  if(NOT mlx_wheels)
    set_target_properties(qwen3-mlx PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  endif()
  if(CMAKE_SYSTEM_NAME STREQUAL Linux AND NOT CMAKE_CROSSCOMPILING)
    # The distribution's libraries too, but for those of the C and C++ run
    # time, which must be the system's, and MLX's, which are there already.
    install(
      TARGETS qwen3-mlx
      RUNTIME_DEPENDENCY_SET qwen3_mlx_runtime
      RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    install(
      RUNTIME_DEPENDENCY_SET
      qwen3_mlx_runtime
      PRE_EXCLUDE_REGEXES
      "^ld-linux.*|^lib(c|m|dl|rt|pthread|stdc\\+\\+|gcc_s|mlx|blas.*|lapack.*|gfortran.*|quadmath.*)\\.(so|dylib).*|^lib(blas|lapack|gfortran|quadmath)-.*"
      LIBRARY
      DESTINATION
      ${QWEN3_MLX_BUNDLE_DIR})
  else()
    install(TARGETS qwen3-mlx RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endif()

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_NAME qwen3-mlx)
set(CPACK_PACKAGE_VENDOR qwen3-mlx)
set(CPACK_PACKAGE_FILE_NAME
    qwen3-mlx-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
include(CPack)
