"""Conditional flow matching over mel spectrograms: F5-TTS (DiT) and E2-TTS (UNetT)."""

from ttstrain.contract.family import Family, TaskSpec
from ttstrain.families.flow.config import FlowConfig

FAMILY = Family(
    name="flow",
    tasks=[
        TaskSpec(
            name="flow",
            config=FlowConfig,
            planner_class="ttstrain.families.flow.planner:FlowPlanner",
            task_class="ttstrain.families.flow.task:FlowTask",
            data_class="ttstrain.families.flow.data:FlowData",
            readings="ttstrain.families.flow.readings:readings",
            export_class="ttstrain.families.flow.export:FlowExporter",
        )
    ],
    formats=["ttstrain.families.flow.upstream:F5Format"],
    strangers="ttstrain.families.flow.strangers:recognise",
    project="ttstrain.families.flow.project:F5Project",
)
