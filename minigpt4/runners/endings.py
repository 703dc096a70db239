"""What ends a run before its last step, and what the user is told then."""

import signal
from pathlib import Path

from minigpt4.common.errors import Interrupted, TrainingError
from minigpt4.models.execution import is_compile_error

RESUME = "the same command with --resume auto resumes it"


def interrupted(number: int, step: int, checkpoint: Path | None) -> Interrupted:
    """A run that was asked to stop, and did.

    Args:
        number: of the signal.
        step: how many steps were done.
        checkpoint: where everything is saved; None if nothing was trained.
    """
    nothing = "nothing is trained yet, so there is nothing to save"
    saved = f"{checkpoint} is saved, {RESUME}" if checkpoint else nothing
    return Interrupted(f"stopped by {signal.Signals(number).name} after step {step}; {saved}", number)


def interrupted_compiler(error: Exception, number: int | None) -> Interrupted | None:
    """What to raise for an error of torch.compile if a signal has ended its C++ compiler.

    Args:
        error: what ended the run.
        number: of the signal that asked the run to stop, if one did.
    """
    if number is None or not is_compile_error(error):
        return None
    name = signal.Signals(number).name
    return Interrupted(
        f"stopped by {name} while torch compiled the model; what was saved before is still there, {RESUME}",
        number,
    )


def too_many_skipped(in_a_row: int, step: int, skipped_log: Path) -> TrainingError:
    """A run whose updates have no finite loss or gradient any more.

    Args:
        in_a_row: how many updates.
        step: after the last of them.
        skipped_log: where their samples are listed.
    """
    return TrainingError(
        f"{in_a_row} updates in a row had no finite loss or gradient, the last at step {step}. Their samples "
        f"are in {skipped_log}; {RESUME}. The cause may be run.init_lr, model.llm_precision or the data"
    )
