#!/usr/bin/env bash
# On each of several machines, of which any but the first may be lost, and come back:
#   RUN=/shared/run FIRST_HOST=node0 bash scripts/machines/torchrun.sh OVERRIDES
# MACHINES: how many at least and at most; RANKS: processes on each; PORT: of the first host.
set -euo pipefail
if [ -z "${RUN:-}" ] || [ -z "${FIRST_HOST:-}" ]; then
  echo "error: set RUN, a run directory that all machines see, and FIRST_HOST, the name of the" \
    "first one: RUN=/shared/run FIRST_HOST=node0 bash $0" >&2
  exit 2
fi
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or nobody can join again (pytorch issue 135712)
exec torchrun \
  --nnodes="${MACHINES:-1:4}" --nproc-per-node="${RANKS:-gpu}" --max-restarts=100 \
  --rdzv-id="$RUN" --rdzv-backend=c10d --rdzv-endpoint="$FIRST_HOST:${PORT:-29400}" \
  --rdzv-conf=last_call_timeout=5 \
  -m train hydra.run.dir="$RUN" resume=auto "$@"
