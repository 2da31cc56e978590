#!/bin/bash
# Fine-tune on the GPUs of several machines that share this folder; one process for each GPU, started by srun.
#   RUN=my_voice RECIPE=f5_v1_new_voice DATA=my_recordings sbatch --nodes 4 scripts/slurm/several_machines.sh
# Further words are settings of a new run; `ttstrain resume` keeps those it has.
#SBATCH --job-name=ttstrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
: "${RUN:?the name of the run}" "${RECIPE:?a recipe}" "${DATA:?a folder of recordings}"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# shellcheck disable=SC2016 # expanded by each process
rank() { # every process of the run, told its place; they end together by themselves, once all is saved
  srun --kill-on-bad-exit=0 bash -c \
    'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
     exec ttstrain "$@"' ttstrain "$@"
}

if [ -f "runs/$RUN/recipe.yaml" ]; then
  rank resume "runs/$RUN"
else
  rank finetune "$RECIPE" --data "$DATA" "name=$RUN" "$@"
fi
code=$?
if [ "$code" -eq 75 ]; then # stopped by the signal, and saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
