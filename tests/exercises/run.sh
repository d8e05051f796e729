#!/bin/sh
# Checks the exercises.
#   run.sh 4    checks exercise 4 in the working tree, as it is there now
#   run.sh all  proves each check on copies of the working tree: it fails on today's code, fails
#               with begin.patch (where there is one), and passes with solution.patch
# make builds ./server, build/peer and build/exercises/check first: `make exercise N=4`, `make exercises`.
set -u
unset MAKEFLAGS  # the builds here decide for themselves how many jobs they use
cd "$(dirname "$0")/../.." || exit 2
root=$(pwd)
check=$root/build/exercises/check

# The folder of exercise number $1.
folder_of() {
    for folder in tests/exercises/"$(printf '%02d' "$1")"-*; do
        [ -d "$folder" ] && echo "$folder"
    done
}

# One more server for exercise 5: without anything against SIGPIPE.
build_for_5() {
    export PEER="$root/build/peer"
    export UNPROTECTED_SERVER=build/unprotected/server
    rm -rf "$1/build/unprotected"
    mkdir -p "$1/build/unprotected" &&
        cp "$1"/Makefile "$1"/*.cpp "$1"/*.h "$1/build/unprotected" &&
        sed -e '/signal(SIGPIPE, SIG_IGN)/d' -e 's/MSG_NOSIGNAL/0/g' "$1/server.cpp" \
            > "$1/$UNPROTECTED_SERVER.cpp" &&
        make -s -j2 -C "$1/build/unprotected" server
}

# Two more servers for exercise 8: the one that still calls pselect(), kept for a comparison, and
# one that ends at the first wrong index, because a write behind an array's end may show nowhere
# else.
build_for_8() {
    export SELECT_SERVER="$root/build/exercises/select-server"
    export STRICT_SERVER=build/strict/server
    grep -q 'pselect(highest' "$1/server.cpp" && cp "$1/server" "$SELECT_SERVER"
    (cd "$1" && make -s -j2 BUILD=build/strict SERVER=$STRICT_SERVER $STRICT_SERVER \
        CXXFLAGS='-std=c++20 -O1 -g -fsanitize=address' \
        LDFLAGS=-fsanitize=address)
}

# Runs the check of exercise $1 in folder $2, on the server that was built there.
run_check() {
    [ "$1" -ne 5 ] || build_for_5 "$2" || return 1
    [ "$1" -ne 8 ] || build_for_8 "$2" || return 1
    (cd "$2" && SERVER=./server "$check" --reporters=student --test-case="$1" 2>&1)
}

one() {
    folder=$(folder_of "$1" 2>/dev/null)
    if [ -z "$folder" ]; then
        echo 'Which exercise? For example: make exercise N=1'
        echo 'There are these:'
        for page in tests/exercises/[0-9]*/README.md; do
            echo "  $(sed -n '1s/^# //p' "$page")"
        done
        exit 2
    fi
    if run_check "$1" .; then
        echo "Exercise $1 is solved."
    else
        echo "Exercise $1 is not solved yet. Its page: $folder/README.md"
        exit 1
    fi
}

# A copy of the working tree in $1, with the patches that follow, and its server built.
copy() {
    place=$1
    shift
    rm -rf "$place"
    mkdir -p "$place/tests"
    cp Makefile *.cpp *.h "$place" && cp -R tests/exercises "$place/tests" || return 1
    for change in "$@"; do
        (cd "$place" && patch -p1 -s) < "$change" || return 1
    done
    (cd "$place" && make -s -j2 server)
}

# Says $2 about exercise $1 and shows the check's output, when that is not what it should be.
wrong() {
    echo "exercise $1: $2"
    sed 's/^/    /' "$place.out"
    return 1
}

# Exercise $1 is not solved in the copy: the check says so, and says what is missing.
fails() {
    run_check "$1" "$place" > "$place.out" && { wrong "$1" "$2 passes"; return 1; }
    grep -q '^- ' "$place.out" || { wrong "$1" "$2 fails without a word"; return 1; }
    grep -q 'The check was interrupted' "$place.out" || return 0
    wrong "$1" "$2: the check fails by itself"
}

passes() {
    run_check "$1" "$place" > "$place.out" || wrong "$1" "$2 does not pass"
}

prove() {
    folder=$(folder_of "$1")
    place=$root/build/exercises/$(printf '%02d' "$1")
    echo "$1: today" && copy "$place" && fails "$1" today || return 1
    if [ -f "$folder/begin.patch" ]; then
        echo "$1: begin.patch" && copy "$place" "$folder/begin.patch" &&
            fails "$1" begin.patch || return 1
        grep -q 'begin.patch' "$place.out" && { wrong "$1" 'begin.patch is not seen'; return 1; }
    fi
    echo "$1: solution.patch" && copy "$place" "$folder/solution.patch" &&
        passes "$1" solution.patch
}

all() {
    passed=0
    failed=0
    for folder in tests/exercises/[0-9]*; do
        number=$(basename "$folder" | sed 's/^0*//; s/-.*//')
        if prove "$number"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

case ${1-} in
    all) all ;;
    [0-9] | [0-9][0-9]) one "${1#0}" ;;
    *) one 0 ;;
esac
