# Finds utf8proc as the target qwen3_mlx_utf8proc, or defines nothing. It is
# installed beside the package's config, which needs the same target.

if(NOT TARGET qwen3_mlx_utf8proc)
  find_path(QWEN3_MLX_UTF8PROC_INCLUDE_DIR utf8proc.h)
  find_library(QWEN3_MLX_UTF8PROC_LIBRARY utf8proc)
  mark_as_advanced(QWEN3_MLX_UTF8PROC_INCLUDE_DIR QWEN3_MLX_UTF8PROC_LIBRARY)
  if(QWEN3_MLX_UTF8PROC_INCLUDE_DIR AND QWEN3_MLX_UTF8PROC_LIBRARY)
    add_library(qwen3_mlx_utf8proc UNKNOWN IMPORTED GLOBAL)
    set_target_properties(
      qwen3_mlx_utf8proc
      PROPERTIES
        IMPORTED_LOCATION ${QWEN3_MLX_UTF8PROC_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES ${QWEN3_MLX_UTF8PROC_INCLUDE_DIR})
  endif()
endif()
