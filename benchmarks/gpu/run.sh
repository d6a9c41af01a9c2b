#!/usr/bin/env bash
# The GPU measurements, from a bundle of pack.py beside this file:  bash run.sh OUT
#   STAGES   of "timing overhead script grid", in this order (script: benchmarks.plain_script, long: not by default)
#   TOTAL    seconds for everything; what is left after the others goes to the grid, which ends 40 s before
#   WORKERS  processes of the grid; its times are void, because they share the GPU
#   QUICK=1  tiny sizes, to try it on any machine
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: run.sh OUT}"
out=$(cd "$1" && pwd)
python=${PYTHON:-python3}
stages=${STAGES:-timing overhead grid}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar xJf "$here/bundle.tar.xz" -C "$work"
export PYTHONPATH=$work/site:$work/project/src
cd "$work/project" || exit 1
if [ -n "$QUICK" ]; then
  small="--epochs 3 --rows 192"
  blocks="--rows 64 --blocks 2 --steps 2"
  rungs="--epochs 3 --rows 200 --seeds 1 --keeps 0.5"
fi
model="--model $work/model"
limit() { echo $(( ${TOTAL:-560} - SECONDS - 40 )); }
stage() { [[ " $stages " == *" $1 "* ]]; }
done_at() { echo "$1: exit code $2 after $SECONDS s"; }
$python -c "import torch, transformers; print(torch.__version__, transformers.__version__)
print(*map(torch.cuda.get_device_name, range(torch.cuda.device_count())))"

if stage timing; then # alone on the machine; the first run warms it up and is thrown away
  timeout 60 $python -m benchmarks.grid speed --sets snips4000 --methods full --seeds 1 --epochs 2 --rows 192 $model \
    --results "$work/warm" > "$out/timing.log" 2>&1
  timeout "$(limit)" $python -m benchmarks.grid speed --sets snips4000 --methods plain,full,el2n,all --seeds 1 $small \
    $model --results "$out" >> "$out/timing.log" 2>&1
  done_at timing $?
  $python -m benchmarks.tables --print speed --results "$out"
fi
if stage overhead; then
  timeout "$(limit)" $python -m benchmarks.overhead $blocks $model --output "$out/overhead.json" \
    > "$out/overhead.log" 2>&1
  done_at overhead $?
  $python -m benchmarks.tables --print overhead --results "$out"
fi
if stage script; then
  timeout "$(limit)" $python -m benchmarks.plain_script --data-root "$work/data" $rungs $model \
    --output "$out/plain_script.json" > "$out/script.log" 2>&1
  done_at script $?
  $python -m benchmarks.tables --print plain-script --results "$out"
fi
if stage grid; then # seed by seed, so that a grid that is cut is balanced; all processes share one list of cells
  sets=snips1500; [ -d "$work/data/atis" ] && sets=atis,snips1500
  for ((worker = 0; worker < ${WORKERS:-13}; worker++)); do
    (
      for pass in 1 2 3; do # a `short` whose diet is still running is left to the next pass
        OMP_NUM_THREADS=1 timeout "$(limit)" $python -m benchmarks.grid quality --data-root "$work/data" --sets $sets \
          --methods full,el2n,random,short --seeds "${SEEDS:-3}" $small $model --results "$out" && break
      done > "$out/grid-$worker.log" 2>&1
    ) &
  done
  wait
  echo "grid: $(ls "$out"/quality/*.json 2> /dev/null | wc -l) runs after $SECONDS s"
fi
# few files go back: the runs as one
tar cJf "$out/runs.tar.xz" -C "$out" $(cd "$out" && ls -d quality speed 2> /dev/null)
