"""Run ttstrain with a fault planted in it, for scripts/judge_proof.py.

    python scripts/planted_faults.py {any_lr,slow_ema,none} finetune RECIPE [key=value ...]

any_lr      the plan refuses no learning rate, however high
slow_ema    the plan refuses no decay, and the EMA keeps its decay from the first step, without the warm-up that lets
            it follow a short run: what trainers do that inherit the counter of the base's EMA
none        nothing; the same process otherwise
"""

from __future__ import annotations

import math
import sys

PLANTED = ("none", "any_lr", "slow_ema")


def plant(fault: str) -> None:
    """Change ttstrain in this process."""
    if fault == "any_lr":
        from ttstrain.plan import refuse

        refuse.HIGHEST_LR = (math.inf, math.inf, math.inf)
    elif fault == "slow_ema":
        from ttstrain.optim.ema import Ema
        from ttstrain.plan import refuse

        def decay_at(self: Ema, step: int) -> float:
            return float(self._decay**self._every) if step > self._start_step else 0.0

        Ema.decay_at = decay_at  # type: ignore[method-assign]
        refuse._check_ema = lambda plan: None
    elif fault not in PLANTED:
        sys.exit(f"error: there is no fault `{fault}`: {', '.join(PLANTED)}")


if __name__ == "__main__":
    plant(sys.argv.pop(1))
    from ttstrain.cli.main import main

    main()
