"""What a launcher (torchrun, accelerate launch) has told this process: its rank, and how many there are.

No other file reads these environment variables. They are there before torch is imported and before the ranks
are connected, so the command line, the log and the weights' loader can ask.
"""

import os

# accelerate's word for `accelerate launch --use_fsdp`.
FSDP = "ACCELERATE_USE_FSDP"


def is_launched() -> bool:
    """Whether a launcher started this process."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """This process's number among all; the first, 0, speaks for all of them."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number among those of its machine, and so the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def ranks_per_model() -> int:
    """How many ranks hold, or could hold, one sharded language model together.

    Those of one machine: between machines, gathering layer after layer would be slow. Where every machine has
    one rank only, all of them.
    """
    return local_world_size() if local_world_size() > 1 else world_size()


def wants_cpu() -> bool:
    """Whether `accelerate launch --cpu` was the command."""
    return _is_true("ACCELERATE_USE_CPU")


def wants_sharding() -> bool:
    """Whether `accelerate launch --use_fsdp` was the command."""
    return _is_true(FSDP)


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"
