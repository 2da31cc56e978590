#!/bin/bash
# Fine-tune on the GPUs of one machine; go on where the last job stopped, and queue again when time is up.
#   RUN=my_voice RECIPE=f5_v1_new_voice DATA=my_recordings sbatch scripts/slurm/one_machine.sh train.epochs=50
# Further words are settings of a new run; `ttstrain resume` keeps those it has.
#SBATCH --job-name=ttstrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
: "${RUN:?the name of the run}" "${RECIPE:?a recipe}" "${DATA:?a folder of recordings}"
gpus=${SLURM_GPUS_ON_NODE:-1}

if [ -f "runs/$RUN/recipe.yaml" ]; then
  srun ttstrain resume "runs/$RUN" --nproc "$gpus"
else
  srun ttstrain finetune "$RECIPE" --data "$DATA" "name=$RUN" --nproc "$gpus" "$@"
fi
code=$?
if [ "$code" -eq 75 ]; then # stopped by the signal, and saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
