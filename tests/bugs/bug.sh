#!/bin/sh
# Mistakes to put back into the server, one a patch. In front of each patch stands what to try with
# it, what to see, why it happens, and which case of the tests catches it.
#
#   bug.sh show N       builds the server with mistake N and prints what to try with it
#   bug.sh prove        proves for every mistake that its case fails and that its bystander passes
#   bug.sh prove N ...  the same for these
#
# A mistake is built in a folder of its own, build/bugs/NN, a copy of build/bugs/00, where the
# program stands as it is: there make builds again only what the patch has changed. The sources
# here are never touched.

set -eu
cd "$(dirname "$0")/../.."

patches=tests/bugs
work=build/bugs
sources='Makefile server.cpp ws_handshake.cpp ws_handshake.h ws_frame.cpp ws_frame.h sha1.cpp sha1.h base64.cpp base64.h'
unset MAKEFLAGS MFLAGS MAKELEVEL  # the makes that are started here take no orders for that one

die() {
  echo "$*" >&2
  exit 2
}

# build FOLDER TARGET...
build() {
  place=$1
  shift
  "${MAKE:-make}" -s -C "$place" CXX="${CXX:-c++}" CXXFLAGS='-std=c++20 -O0 -fsigned-char' LDFLAGS="${LDFLAGS:-}" \
    BUILD=build SERVER=server "$@"
}

# The program as it is. What has not changed since the last time is not built again.
build_00() {
  mkdir -p $work/00/tests
  rm -f $work/00/*.cpp $work/00/*.h $work/00/tests/*.cpp $work/00/tests/*.h
  cp -p $sources $work/00
  cp -p tests/*.cpp tests/*.h $work/00/tests
  build $work/00 -j2 "$@"
}

# patch_of N: the file's name, tests/bugs/NN-words.patch
patch_of() {
  case $1 in
    '' | *[!0-9]*) die "Which one? For example: make bug N=3. There are these:
$(titles)" ;;
  esac
  two_digits=$(printf %02d "$(echo "$1" | sed 's/^0*//')")
  for file in $patches/"$two_digits"-*.patch; do
    [ -f "$file" ] || die "There is no bug $1. There are these:
$(titles)"
    echo "$file"
  done
}

titles() {
  for file in $patches/*.patch; do
    echo "  $(number_of "$file") $(field Title "$file")"
  done
}

number_of() {
  basename "$1" | sed 's/-.*//'
}

# field NAME FILE: what stands behind "NAME: " in the patch's header
field() {
  sed -n "/^--- /q; s/^$1: //p" "$2"
}

# apply FILE FOLDER: makes the folder anew, a copy of 00, with the patch in it
apply() {
  rm -rf "$2"
  cp -Rp $work/00 "$2"
  patch -s -p1 -d "$2" < "$1"
}

show() {
  file=$(patch_of "$1")
  folder=$work/$(number_of "$file")
  build_00 server
  apply "$file" "$folder" || die "This mistake does not fit into the sources as they are now. To have them as they came: git stash"
  build "$folder" server
  echo
  sed '/^--- /,$d' "$file"
  echo
  echo "The patch: $file"
  echo "Start it:  $folder/server"
  echo "With each frame and each call of select(), recv() and send() shown:  $folder/server --trace"
}

# run_case FOLDER NAME OUTPUT: runs this one case against the server in the folder. Says "passed",
# "failed", or what else happened. Cases of test_server.cpp and the like speak to the server over
# the network, and the program that runs them is the good one; the unit cases of a module are linked
# with the module, and so they are built in the folder.
run_case() {
  in_file=$(grep -lF "(\"$2\"" $work/00/tests/test_*.cpp | head -n 1)
  [ -n "$in_file" ] || in_file=$(grep -lF ", \"$2\"" $work/00/tests/test_*.cpp | head -n 1)
  case $in_file in
    '')
      echo 'is not there'
      return
      ;;
    */test_ws_*.cpp | */test_sha1.cpp | */test_base64.cpp)
      runner=$1/build/run_tests
      build "$1" build/run_tests > "$3" 2>&1 || {
        echo 'does not build'
        return
      }
      ;;
    *) runner=$work/00/build/run_tests ;;
  esac
  filter=$(echo "$2" | sed 's/[\\,]/\\&/g')  # a comma would begin another name
  status=0
  SERVER=$1/server "$runner" -tc="$filter" > "$3" 2>&1 || status=$?
  result=$(sed 's/\x1b\[[0-9;]*m//g' "$3" | grep '^\[doctest\] test cases:' | tr -s ' ' || true)
  case $result in
    *'cases: 1 | 1 passed | 0 failed'*) if [ $status = 0 ]; then echo passed; else echo 'ended badly'; fi ;;
    *'cases: 1 | 0 passed | 1 failed'*) echo failed ;;
    *'cases: 0 |'*) echo 'was not run' ;;
    *) echo "ended without a result, status $status" ;;
  esac
}

# prove_one FILE FOLDER: says nothing when all is well, else what is wrong
prove_one() {
  changed=$(sed '1,/^+++ /d' "$1" | grep -c '^[-+]')
  [ "$changed" -le 10 ] || echo "  changes $changed lines, more than ten"
  for name in Title Try Why Case Bystander; do
    sed '/^--- /q' "$1" | grep -q "^$name:" || echo "  has no line $name:"
  done
  apply "$1" "$2" > "$2.log" 2>&1 || {
    echo '  does not apply'
    cat "$2.log"
    return
  }
  build "$2" server > "$2.log" 2>&1 || {
    echo '  does not build'
    cat "$2.log"
    return
  }
  result=$(run_case "$2" "$(field Case "$1")" "$2.log")
  [ "$result" = failed ] || echo "  the case that should fail: $result"
  result=$(run_case "$2" "$(field Bystander "$1")" "$2.log")
  [ "$result" = passed ] || {
    echo "  the bystander: $result"
    cat "$2.log"
  }
}

# Goes through these patches and proves each that nobody else has begun: two of these run at a time.
prove_some() {
  for file in "$@"; do
    folder=$work/$(number_of "$file")
    [ ! -e $work/stop ] && mkdir "$folder.begun" 2> /dev/null || continue
    prove_one "$file" "$folder" > "$folder.wrong"
    if [ -s "$folder.wrong" ]; then
      { echo "FAILED $(number_of "$file"): $(field Title "$file")" && cat "$folder.wrong"; } | tee -a $work/failed
    else
      echo "passed $(number_of "$file"): $(field Title "$file")" | tee -a $work/passed
    fi
    rm -rf "$folder" "$folder.wrong" "$folder.log"
  done
}

prove() {
  files=$patches/*.patch
  if [ $# -gt 0 ]; then
    files=
    for number in "$@"; do
      file=$(patch_of "$number")
      files="$files $file"
    done
  fi
  build_00 server build/run_tests
  rm -rf $work/*.begun $work/failed $work/passed $work/stop
  : > $work/failed
  : > $work/passed
  trap 'touch $work/stop' INT TERM HUP
  prove_some $files &
  prove_some $files
  wait
  rm -rf $work/*.begun
  failed=$(grep -c '^FAILED' $work/failed || true)
  echo "$(grep -c '' $work/passed || true) passed, $failed failed"
  [ ! -e $work/stop ] && [ "$failed" = 0 ]
}

[ $# -ge 1 ] || die 'bug.sh show N, or bug.sh prove [N ...]'
action=$1
shift
case $action in
  show) show "${1:-}" ;;
  prove) prove "$@" ;;
  *) die 'bug.sh show N, or bug.sh prove [N ...]' ;;
esac
