#!/usr/bin/env bash
# sbatch slurm.sh: a Ray cluster of the job's nodes, and a run on it. The same script again goes on
# with the run. The working folder must be one that all nodes see, with .venv in it.
#SBATCH --job-name=selfplay
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
set -euo pipefail
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*} last=${nodes##*$'\n'}
# The head's address as the last node sees it, by the route there (nothing is sent): on the head its
# own name may be 127.0.1.1.
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" .venv/bin/python -c 'import socket, sys
route = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
route.connect((sys.argv[1], 6379))
print(route.getsockname()[0])' "$last")
if [[ $SLURM_JOB_NUM_NODES -gt 1 && $ip == 127.* ]]; then
    echo "$head reaches $last from $ip, where no other node finds it; set ip= to its address" >&2
    exit 1
fi
address=$ip:6379
# On the head a CPU less than there are: the learner's. --block: the step ends with its Ray.
srun --nodes=1 --ntasks=1 --nodelist="$head" .venv/bin/ray start --head --block \
    --node-ip-address="$ip" --port=6379 --num-cpus=$((SLURM_CPUS_PER_TASK - 1)) &
until .venv/bin/ray health-check --address "$address" 2>/dev/null; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        --exclude="$head" .venv/bin/ray start --address="$address" --block \
        --num-cpus="$SLURM_CPUS_PER_TASK" &
fi
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" .venv/bin/selfplay train --game go9x9 \
    --ray "$address" --run runs/go9x9 --minutes 690 --set rl.games=2048 --set rl.positions=65536
