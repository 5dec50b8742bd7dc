#!/usr/bin/env bash
# The board's first rows, made again: `bash board/again.sh FOLDER` runs the suites into FOLDER and leaves the
# submissions and a board of them there. Quickstart and the ResNets take minutes; the LeNets, on MNIST, two hours of one
# core, most of it training and pruning, which a cache of an earlier run spares.
set -euo pipefail
out=${1:?where to: bash board/again.sh FOLDER}
nqbench=${NQBENCH:-nqbench}
make() { # NAME ROWS SUITE OPTIONS...
  "$nqbench" run "${@:3}" --output "$out/$1" --quiet > /dev/null
  "$nqbench" submit "$out/$1" --to "$out/$1.nqs" --rows "$2" --who nqbench --force
  "$nqbench" board add "$out/board" "$out/$1.nqs" --new-networks --title "nqbench: networks in the fewest bytes"
}
make quickstart front quickstart
make lenet300 front cited
make lenet5 front cited --profile lenet5
make compressed front compress --set 'models=[resnet20, resnet32]'
