"""scripts/slurm, scripts/kubernetes, scripts/skypilot: a run that is stopped is queued again, and goes on.

No cluster is here: Slurm's commands are stood in for by ones that start the processes on this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_runs
import yaml

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
done
trap 'kill -USR1 $(jobs -p)' USR1
worst=0
for job in $(jobs -p); do
  while true; do
    wait "$job"
    code=$?
    kill -0 "$job" 2>/dev/null || break
  done
  ((code > worst)) && worst=$code
done
exit $worst
"""
SCONTROL = """#!/bin/bash
case $1 in
  show) echo 127.0.0.1 ;;
  requeue) echo "$2" >> requeued ;;
esac
"""
PYTHON_M = f'#!/bin/bash\nexec {sys.executable} -m ttstrain "$@"\n'
LAST = 400  # far more steps than are taken before the signal


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a recipe, recordings, and Slurm's commands."""
    small_runs.write_recipe(tmp_path / "recipe.yaml", data=small_runs.write_clips(tmp_path / "recordings"))
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("ttstrain", PYTHON_M)):
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def submit(desk: Path, script: str, *more: str, tasks: int) -> subprocess.Popen[str]:
    slurm = {
        "SLURM_JOB_ID": str(os.getpid() % 20_000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_GPUS_ON_NODE": "2",
    }
    wanted = {"RUN": "voice", "RECIPE": "recipe.yaml", "DATA": "recordings"}
    path = f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **slurm, **wanted, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", SCRIPTS / "slurm" / script, *more],
        cwd=desk, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def step(desk: Path) -> int:
    rows = desk / "runs" / "voice" / "metrics.jsonl"
    return rows.read_text(encoding="utf-8").count("\n") if rows.exists() else 0


@pytest.mark.parametrize(("script", "tasks"), [("one_machine.sh", 1), ("several_machines.sh", 2)])
def test_a_job_whose_time_is_up_saves_is_queued_again_and_goes_on(desk: Path, script: str, tasks: int) -> None:
    job = submit(desk, script, f"train.steps={LAST}", "checkpoint.every=1000", tasks=tasks)
    deadline = time.monotonic() + 120
    while step(desk) < 2:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    srun = subprocess.run(["pgrep", "-P", str(job.pid)], check=True, capture_output=True, text=True).stdout.split()
    os.kill(int(srun[0]), signal.SIGUSR1)  # Slurm signals the steps of a job, not its script
    said = job.communicate(timeout=120)[0]
    assert job.returncode == 75, said
    assert (desk / "requeued").exists()
    stopped = step(desk)
    assert 2 <= stopped < LAST

    recipe = desk / "runs" / "voice" / "recipe.yaml"
    assert f"steps: {LAST}" in recipe.read_text(encoding="utf-8")
    again = submit(desk, script, tasks=tasks)
    while step(desk) <= stopped:
        assert again.poll() is None, again.communicate()[0]
        assert time.monotonic() < deadline + 120
        time.sleep(0.1)
    srun = subprocess.run(["pgrep", "-P", str(again.pid)], check=True, capture_output=True, text=True).stdout.split()
    os.kill(int(srun[0]), signal.SIGUSR1)
    assert again.wait(120) == 75, again.communicate()[0]
    assert step(desk) > stopped
    assert (desk / "requeued").read_text(encoding="utf-8").count("\n") == 2


def test_a_run_that_fails_is_not_queued_again(desk: Path) -> None:
    job = submit(desk, "one_machine.sh", "optim.lrr=1", tasks=1)
    assert job.wait(120) == 2
    assert not (desk / "requeued").exists()


def test_the_kubernetes_job_knows_which_exit_codes_are_worth_another_try() -> None:
    job = yaml.safe_load((SCRIPTS / "kubernetes" / "job.yaml").read_text(encoding="utf-8"))
    rules = job["spec"]["podFailurePolicy"]["rules"]
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules if "onExitCodes" in rule}
    assert codes == {"Ignore": [75], "FailJob": [2, 3, 4, 5, 6]}
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    assert pod["terminationGracePeriodSeconds"] >= 300
    [container] = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("place", ["kubernetes/job.yaml", "skypilot/finetune.yaml"])
def test_the_commands_in_them_are_ones_that_ttstrain_and_bash_know(place: str, tmp_path: Path) -> None:
    text = yaml.safe_load((SCRIPTS / place).read_text(encoding="utf-8"))
    script = text["run"] if "run" in text else text["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
    started = [line for line in script.splitlines() if " finetune " in line or " resume " in line]
    assert len(started) == 2
