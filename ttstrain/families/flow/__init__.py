"""Conditional flow matching over mel spectrograms: F5-TTS (DiT) and E2-TTS (UNetT)."""

from ttstrain.contract.family import Family, TaskSpec
from ttstrain.families.flow.config import FlowConfig

FAMILY = Family(
    name="flow",
    title="F5-TTS and E2-TTS",
    tasks=[
        TaskSpec(
            name="flow",
            config=FlowConfig,
            planner_class="ttstrain.families.flow.planner:FlowPlanner",
            task_class="ttstrain.families.flow.task:FlowTask",
            data_class="ttstrain.families.flow.data:FlowData",
            interpretations="ttstrain.families.flow.interpretations:list_interpretations",
            export_class="ttstrain.families.flow.export:FlowExporter",
            blank_batch="ttstrain.families.flow.blank:blank_batch",
            proof_class="ttstrain.families.flow.same_net:FlowProof",
        )
    ],
    formats=["ttstrain.families.flow.upstream:F5Format"],
    unknown_files="ttstrain.families.flow.unknown_files:identify",
    project="ttstrain.families.flow.project:F5Project",
    readers=["ttstrain.families.flow.prepared:PreparedFolder"],
    line_formats=["ttstrain.families.flow.header_table:HeaderTable"],
)
