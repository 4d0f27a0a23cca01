#!/usr/bin/env bash
# What a machine with a GPU has to show, in at most ten minutes: checks first, then figures.
#
#   bash scripts/evidence/gpu.sh OUT            # needs pip install -e ".[dev]"
#   SMALL=1 bash scripts/evidence/gpu.sh OUT    # a rehearsal on the CPU, in tiny sizes
#
# OUT/parts.jsonl gets a line when a part has ended, OUT/NAME.log what it printed, OUT/NAME.json
# what it found. A part that takes too long is cut (exit code 124), and the rest goes on.
set -uo pipefail
: "${1:?give a folder for what is found}"
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} CUBLAS_WORKSPACE_CONFIG=:4096:8

check=(--device cuda) tests=("$root/tests/model") train=(trainer=gpu) machine=(cuda) kills=2
half=(bf16 fp16) head=() speed=(--rounds 3) slack=1 steps=20 small=(compile=false)
if [ -n "${SMALL:-}" ]; then
  export OMP_NUM_THREADS=1
  check=(--device cpu --tiny) tests=() train=(trainer=cpu) machine=(cpu) kills=1
  half=(bf16) head=(--tokens 256 --width 16 --vocabulary 4096) speed=(--device cpu --tiny)
  slack=6 steps=5 small=(model.width=32 model.ffn_width=48 data.limit_examples=64)
fi

failed=0
part() { # NAME SECONDS COMMAND…
  local name=$1 limit=$(($2 * slack)) begun=$SECONDS code
  shift 2
  echo "$name …"
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  [ $code = 0 ] || { failed=1; tail -n 3 "$out/$name.log"; }
  printf '{"part": "%s", "exit_code": %d, "seconds": %d}\n' \
    "$name" $code $((SECONDS - begun)) | tee -a "$out/parts.jsonl"
}

part tests 50 "$python" -m pytest -q --rootdir "$root" -c "$root/pyproject.toml" -m "not slow" \
  "$root"/tests/training/test_{host_copy,fake_cuda,waiting}.py "${tests[@]}" \
  --junitxml "$out/tests.xml"
part agree 30 "$python" -m benchmarks.gpu_checks agree "${check[@]}" --out "$out/agree.json"
for precision in "${half[@]}"; do
  part "train-$precision" 25 "$python" -m train "${train[@]}" "precision=$precision" \
    "${small[@]}" logger=none trainer.max_steps=$steps "hydra.run.dir=$out/$precision"
done
part compile 60 "$python" -m benchmarks.gpu_checks compile "${check[@]}" --out "$out/compile.json"
part resume 90 "$python" kill_and_resume.py --frail --kills $kills --folder "$out/resume" \
  "trainer.accelerator=${machine[0]}" precision=bf16 trainer.max_steps=20 data.corpus.val_examples=40
part head 40 "$python" benchmark.py head --precision bf16 --rounds 1 --out "$out/head" "${head[@]}"
part speed 120 "$python" benchmark.py gpu "${speed[@]}" --out "$out/speed"
part compiled 160 "$python" benchmark.py gpu "${speed[@]}" --compile --only compiled \
  --out "$out/compiled"
exit $failed
