#!/usr/bin/env bash
# The board's first rows, made again: `bash board/again.sh FOLDER` runs the suites into FOLDER and leaves the
# submissions and a board of them there. Half an hour on one core, most of it LeNet-5's training and pruning.
set -euo pipefail
out=${1:?where to: bash board/again.sh FOLDER}
nqbench=${NQBENCH:-nqbench}
make() { # NAME ROWS SUITE OPTIONS...
  "$nqbench" run "${@:3}" --output "$out/$1" --quiet > /dev/null
  "$nqbench" submit "$out/$1" --to "$out/$1.nqs" --rows "$2" --who nqbench --force
  "$nqbench" board add "$out/board" "$out/$1.nqs" --new-networks --title "nqbench: networks in the fewest bytes"
}
make quickstart front quickstart
make lenet5 front lenet --profile small
make beyond front beyond --profile small
