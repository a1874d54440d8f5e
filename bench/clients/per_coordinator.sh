#!/bin/sh
# The shell script's algorithm, written anew: a process per command, and two walks over the
# whole keyspace for each stale coordinator, one for its ACKs and one for its idempotency keys.
#
# usage: per_coordinator.sh CLI PORT SHELLS BUDGET_S FOLDER
#
# Heartbeats are split in batches of 1,000, SHELLS batches at once. After BUDGET_S it stops, also
# in the middle of a walk, and prints as JSON what it did, for a projection: microseconds for
# the list of heartbeats and for all that came after it, pages of the one walk that made the
# list, pages walked after it, coordinators deleted.
set -u
cli=$1 port=$2 shells=$3 budget_s=$4
cd "$5" || exit 1
now_s=$(date +%s)
newline='
'

ask() { "$cli" -p "$port" "$@"; }

now_us() { ask TIME | { read -r s && read -r us && echo $((s * 1000000 + us)); }; }

# walk PATTERN FILE: matching keys are added to the file, pages are counted.
walk() {
  cursor=0
  while [ ! -e stop ]; do
    page=$(ask SCAN "$cursor" MATCH "$1" COUNT 100) || exit 1
    pages=$((pages + 1))
    cursor=${page%%"$newline"*}
    case $page in *"$newline"*) printf '%s\n' "${page#*"$newline"}" >>"$2" ;; esac
    [ "$cursor" = 0 ] && return 0
  done
  return 1
}

purge_if_stale() {
  beat_ms=$(ask GET "$1" | grep -o '"timestamp": *[0-9]*' | grep -o '[0-9]*$')
  [ -n "$beat_ms" ] && [ $((now_s - beat_ms / 1000)) -gt 600 ] || return 0
  id=${1#blocking:heartbeat:}
  owned=$2.owned
  : >"$owned"
  walk "blocking:ack:$id:*" "$owned" && walk "blocking:idempotency:*$id*" "$owned" || return 0
  # Unquoted: a word for each key.
  ask DEL "$1" "blocking:signal:$id" "coordinator:activity:$id" $(cat "$owned") >/dev/null
  purged=$((purged + 1))
}

purge_batch() {
  pages=0 purged=0
  while [ ! -e stop ] && read -r heartbeat; do
    purge_if_stale "$heartbeat" "$1" </dev/null
  done <"$1"
  echo "$pages $purged" >"$1.done"
}

pages=0
began_us=$(now_us)
walk 'blocking:heartbeat:*' heartbeats
list_pages=$pages
listed_us=$(now_us)
split -l 1000 heartbeats batch.

(
  trap 'kill "$nap"; exit' TERM
  sleep "$budget_s" &
  nap=$!
  wait "$nap" && : >stop
) &
timer=$!
running=0 pids=
for batch in batch.??; do
  purge_batch "$batch" &
  pids="$pids $!"
  running=$((running + 1))
  if [ "$running" -eq "$shells" ]; then
    wait $pids
    running=0 pids=
  fi
done
[ -z "$pids" ] || wait $pids
ended_us=$(now_us)
kill "$timer" 2>/dev/null
wait "$timer"

pages=0 purged=0
for done in batch.??.done; do
  read -r more_pages more_purged <"$done" || exit 1
  pages=$((pages + more_pages)) purged=$((purged + more_purged))
done
printf '{"list_us": %d, "loop_us": %d, "list_pages": %d, "pages": %d, "purged": %d}\n' \
  $((listed_us - began_us)) $((ended_us - listed_us)) "$list_pages" "$pages" "$purged"
