"""GPT-SoVITS: a language model over semantic tokens, and a VAE with a GAN decoder that turns them into sound."""

from ttstrain.contract.family import Family, TaskSpec
from ttstrain.families.gpt_sovits.config import GptConfig, JointConfig, VaeConfig

DATA = "ttstrain.families.gpt_sovits.data:SovitsData"
PROOF = "ttstrain.families.gpt_sovits.same_net:SovitsProof"
BLANK = "ttstrain.families.gpt_sovits.blank:blank_batch"

FAMILY = Family(
    name="gpt_sovits",
    title="GPT-SoVITS",
    tasks=[
        TaskSpec(
            name="gpt_sovits/gpt",
            config=GptConfig,
            planner_class="ttstrain.families.gpt_sovits.planner:GptPlanner",
            task_class="ttstrain.families.gpt_sovits.gpt.task:GptTask",
            data_class=DATA,
            export_class="ttstrain.families.gpt_sovits.export:GptExporter",
            blank_batch=BLANK,
            proof_class=PROOF,
        ),
        TaskSpec(
            name="gpt_sovits/vae",
            config=VaeConfig,
            planner_class="ttstrain.families.gpt_sovits.planner:VaePlanner",
            task_class="ttstrain.families.gpt_sovits.vae.task:VaeTask",
            data_class=DATA,
            export_class="ttstrain.families.gpt_sovits.export:VaeExporter",
            blank_batch=BLANK,
            proof_class=PROOF,
        ),
        TaskSpec(
            name="gpt_sovits/joint",
            config=JointConfig,
            planner_class="ttstrain.families.gpt_sovits.planner:JointPlanner",
            task_class="ttstrain.families.gpt_sovits.joint:JointTask",
            data_class=DATA,
            export_class="ttstrain.families.gpt_sovits.export:JointExporter",
            blank_batch=BLANK,
            proof_class=PROOF,
        ),
    ],
    formats=["ttstrain.families.gpt_sovits.upstream:SovitsFormat"],
    unknown_files="ttstrain.families.gpt_sovits.unknown_files:identify",
    project="ttstrain.families.gpt_sovits.project:SovitsProject",
    readers=["ttstrain.families.gpt_sovits.prepared:PreparedFolder"],
    line_formats=["ttstrain.families.gpt_sovits.lists:SovitsList"],
)
