# Whether the kernels for NVIDIA GPUs are built: where MLX was built for them, is
# the pinned version, and nvcc is at hand. Sets QWEN3_MLX_CUDA_KERNELS. Languages
# are enabled at the top, so this is not in src/kernels/cuda.

set(QWEN3_MLX_CUDA_ARCHITECTURES
    ""
    CACHE STRING "GPUs to compile for, as in 80;90a;120; empty: all of these")

set(reason "")
if(MLX_INCLUDE_DIRS)
  set(mlx_include ${MLX_INCLUDE_DIRS})
else()
  get_target_property(mlx_include mlx INTERFACE_INCLUDE_DIRECTORIES)
endif()
find_file(
  QWEN3_MLX_ENCODER_HEADER mlx/backend/cuda/device.h
  PATHS ${mlx_include}
  NO_DEFAULT_PATH)
include(CheckLanguage)
if(NOT TARGET CUDA::cudart_static)
  set(reason "MLX was not built for CUDA")
elseif(NOT MLX_VERSION VERSION_EQUAL QWEN3_MLX_MLX_VERSION)
  set(reason "MLX is ${MLX_VERSION}, not ${QWEN3_MLX_MLX_VERSION}")
elseif(NOT QWEN3_MLX_ENCODER_HEADER)
  set(reason "MLX lacks the header mlx/backend/cuda/device.h")
else()
  set(CMAKE_CUDA_ARCHITECTURES 90a) # for the test of the compiler
  if(NOT CMAKE_CUDA_COMPILER AND CUDAToolkit_NVCC_EXECUTABLE)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(reason "there is no nvcc")
  endif()
endif()

set(QWEN3_MLX_CUDA_KERNELS ON)
if(reason)
  set(QWEN3_MLX_CUDA_KERNELS OFF)
  message(STATUS "CUDA kernels: left out: ${reason}")
  if(QWEN3_MLX_CUDA)
    message(WARNING "CUDA kernels are left out: ${reason}")
  endif()
  return()
endif()

if(QWEN3_MLX_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${QWEN3_MLX_CUDA_ARCHITECTURES})
else()
  set(CMAKE_CUDA_ARCHITECTURES 80 90a 120)
endif()
enable_language(CUDA)
message(STATUS "CUDA kernels: for ${CMAKE_CUDA_ARCHITECTURES}")
