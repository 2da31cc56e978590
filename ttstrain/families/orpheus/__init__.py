"""A language model over codec tokens: Orpheus, a Llama that writes the codes of SNAC."""

from ttstrain.contract.family import Family, TaskSpec
from ttstrain.families.orpheus.config import OrpheusConfig

FAMILY = Family(
    name="orpheus",
    title="Orpheus",
    tasks=[
        TaskSpec(
            name="orpheus",
            config=OrpheusConfig,
            planner_class="ttstrain.families.orpheus.planner:OrpheusPlanner",
            task_class="ttstrain.families.orpheus.task:OrpheusTask",
            data_class="ttstrain.families.orpheus.data:OrpheusData",
            unit="tokens",
            export_class="ttstrain.families.orpheus.export:OrpheusExporter",
            blank_batch="ttstrain.families.orpheus.blank:blank_batch",
            proof_class="ttstrain.families.orpheus.same_net:OrpheusProof",
        )
    ],
    formats=["ttstrain.families.orpheus.upstream:OrpheusFormat"],
)
