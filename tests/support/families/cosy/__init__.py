"""A family after CosyVoice, small: a language model writes speech tokens, a flow-matching net makes their mel.

It stands for a family that somebody adds: its folder is all that ttstrain is given of it.
"""

from ttstrain.contract.family import Family, TaskSpec
from ttstrain.families.cosy.config import CosyConfig

FAMILY = Family(
    name="cosy",
    tasks=[
        TaskSpec(
            name="cosy",
            config=CosyConfig,
            planner_class="ttstrain.families.cosy.planner:CosyPlanner",
            task_class="ttstrain.families.cosy.task:CosyTask",
            data_class="ttstrain.families.cosy.data:CosyData",
        )
    ],
    formats=["ttstrain.families.cosy.upstream:CosyFormat"],
)
