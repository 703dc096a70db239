"""Where the original has these names; the package itself uses `minigpt4.common.launch`."""

from minigpt4.compat.dist_utils import (
    download_cached_file,
    get_rank,
    get_world_size,
    init_distributed_mode,
    is_dist_avail_and_initialized,
    is_main_process,
    main_process,
)

__all__ = [
    "download_cached_file",
    "get_rank",
    "get_world_size",
    "init_distributed_mode",
    "is_dist_avail_and_initialized",
    "is_main_process",
    "main_process",
]
