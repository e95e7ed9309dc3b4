#!/usr/bin/env bash
# A sweep on two machines that are network namespaces of this one, joined by a virtual cable: it ends
# with the table of one process; with the cable cut in the middle both ends stop with one message
# within the timeout, and the same command finishes once the cable is back. Needs root (ip netns).
#   scripts/check_two_nodes.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: $0 PYTHON (of an environment with the extras models, report and test)}
if ((EUID)); then
    echo "$0: network namespaces need root" >&2
    exit 2
fi
id=fd$$
work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    ip netns del "${id}a" 2>/dev/null || true
    ip netns del "${id}b" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

ip netns add "${id}a"
ip netns add "${id}b"
ip link add "${id}x" netns "${id}a" type veth peer name "${id}y" netns "${id}b"
ip -n "${id}a" addr add 10.77.0.1/24 dev "${id}x"
ip -n "${id}b" addr add 10.77.0.2/24 dev "${id}y"
for end in a:x b:y; do
    ip -n "$id${end%:*}" link set lo up
    ip -n "$id${end%:*}" link set "$id${end#*:}" up
done

PYTHONPATH=tests "$python" - "$work" <<'PROGRAM'
import random
import sys
from pathlib import Path

from tiny_model import TEXT, save_tiny

place = Path(sys.argv[1])
save_tiny(place / "model")
(place / "texts").mkdir()
rng = random.Random(0)
for number in range(60):
    text = " ".join(rng.choice(TEXT.split()) for _ in range(40))
    (place / "texts" / f"{number:02}.txt").write_text(text)
PROGRAM

options=(sweep "$work/model" --texts "$work/texts" --context 16 --max-tokens 4000 --batch-size 4
    --threads 1 --formats csv --quiet --rank-timeout 20)

# start RUN RANK: one rank in its namespace, with a disk of its own
start() {
    local end=a device=x
    (($2 == 0)) || { end=b device=y; }
    timeout -k 5 200 ip netns exec "$id$end" env RANK="$2" WORLD_SIZE=2 MASTER_ADDR=10.77.0.1 MASTER_PORT=29400 \
        GLOO_SOCKET_IFNAME="$id$device" "$python" -m fastdim "${options[@]}" \
        --output "$work/$1-node$2" 2>"$work/$1-$2.err" &
    pids+=($!)
}

# both RUN: the exit codes of the two ranks started last, as "0 0"
both() {
    local first=0 second=0
    wait "${pids[-2]}" || first=$?
    wait "${pids[-1]}" || second=$?
    echo "$first $second"
}

fail() {
    echo "$0: $1" >&2
    tail -n 5 "$work"/*.err >&2
    exit 1
}

"$python" -m fastdim "${options[@]}" --output "$work/alone"

echo "=== two nodes"
start whole 0
start whole 1
both >"$work/codes"
[[ $(cat "$work/codes") == "0 0" ]] || fail "two nodes ended with codes $(cat "$work/codes")"
[[ -d $work/whole-node1/activations-1-of-2 ]] || fail "the second node kept no rows"
[[ ! -e $work/whole-node1/activations-0-of-2 ]] || fail "rows of the first node are on the second"

echo "=== the cable is cut in the middle"
start cut 0
start cut 1
until compgen -G "$work/cut-node0/pieces/*.json" >/dev/null; do
    kill -0 "${pids[-2]}" || fail "ended before the cable was cut"
    sleep 0.02
done
ip -n "${id}a" link set "${id}x" down
before=$SECONDS
both >"$work/codes"
echo "both ended $((SECONDS - before)) s after the cut, codes $(cat "$work/codes")"
[[ $(cat "$work/codes") == "4 4" ]] || fail "codes $(cat "$work/codes") after the cut, not 4 4"
for rank in 0 1; do
    # Cut off from each other, each end has to speak for itself.
    [[ $(grep -c "fastdim: error:" "$work/cut-$rank.err") == 1 ]] || fail "rank $rank: not one message"
    grep -q "has lost the others.*start the same command again" "$work/cut-$rank.err" ||
        fail "rank $rank did not say what has happened"
done
finished=$(find "$work/cut-node0/pieces" -name '*.json' | wc -l)
((finished > 0 && finished < 16)) || fail "$finished pieces were finished before the cut"

echo "=== the cable is back, $finished of 16 pieces are there"
ip -n "${id}a" link set "${id}x" up
start cut 0
start cut 1
both >"$work/codes"
[[ $(cat "$work/codes") == "0 0" ]] || fail "the restart ended with codes $(cat "$work/codes")"

PYTHONPATH=tests "$python" - "$work" <<'PROGRAM'
import sys
from pathlib import Path

import pandas as pd
from test_distributed_sweep import same

place = Path(sys.argv[1])
expected = pd.read_csv(place / "alone" / "results.csv")
for run in ("whole", "cut"):
    same(pd.read_csv(place / f"{run}-node0" / "results.csv"), expected)
print(f"both tables are that of one process: {len(expected)} rows")
PROGRAM
