"""What `--help` teaches: of each command what it does, what it never does, and examples.

Lines of help fit 80 columns. Each example is parsed by a test; two spaces or more begin a remark.
"""

from __future__ import annotations

ABOUT = """\
Find coordinators whose heartbeat is stale or gone, and delete their keys.
What lives, and what can't be understood, is kept."""

COMMANDS = {
    "sweep": ("run", "restore", "render"),
    "set up": ("check", "schema", "acl", "completion"),
    "try": ("demo",),
}
"""The commands by what they are for, as the help lists them."""

FIRST_STEPS = """\
first steps:
  cleanup-job demo                                     see it on made-up data
  cleanup-job run --url redis://db.example --dry-run   what would go, and why
  cleanup-job run --url redis://db.example             delete it

'cleanup-job COMMAND --help' has examples of each command.
"""

EXIT_CODES = """\
exit codes:
  0        complete (a dry run too)
  1        a bug; please report it
  2        usage, configuration, or the server refuses (password, rights,
           replica)
  3        partial: something failed, is unknown or was not covered; run again
  4        refused by a safety limit that the message names; nothing was deleted
  75       try again later: unreachable, loading, out of memory, another run is
           at it, or the stop file is there; nothing was deleted
  130/143  stopped by Ctrl-C or SIGTERM (129: the terminal is gone); batches in
           flight were finished
"""

RUN = """\
Find coordinators whose heartbeat is stale or gone, and delete their keys.

It walks the keyspace once, judges each heartbeat by the server's clock, and
deletes in steps that look at the heartbeat again: whoever came back meanwhile
keeps everything. --dry-run shows what would go, and writes nothing.

It never deletes keys of a coordinator that lives, nor of one whose heartbeat
it can't read; and keys without any heartbeat (orphans) only if told to. One
that is killed leaves nothing that the next run would not find."""

RUN_EXAMPLES = """\
examples:
  cleanup-job run --url redis://db.example:6379/0 --dry-run
                                               what would go, and why
  cleanup-job run --url redis://db.example:6379/0           delete it
  cleanup-job run -c configs/blocking.yaml --json report.json --html report.html
                                               by a file, with reports
  REDIS_PASSWORD=... cleanup-job run --url redis://db.example
                                               the password, out of sight
  cleanup-job run --dry-run --plan plan.jsonl.gz     write down what would go,
  cleanup-job run --plan plan.jsonl.gz               and delete nothing else
  cleanup-job run --journal /var/lib/cleanup-job/    one that can be undone
  cleanup-job run --orphans purge --orphan-grace 3600
                                               keys without a heartbeat too
  cleanup-job run -q --time-budget 60          from a timer: silent when well
  cleanup-job run --max-latency-ms 5 --nice 1  gently, on a busy server
  cleanup-job run --url rediss://db.example --ca-file ca.pem
                                               TLS, and whom to trust
  cleanup-job run --url redis+sentinel://a.example,b.example/service/0
"""

STREAMS = """\
what goes where:
  stdout  the report, and what to do next; or JSON with --json -
  stderr  messages; progress too, if it is a terminal
  -v      the report also has what each command took, each partition and all
          reasons; stderr has what each phase did
  -q      nothing at all if the exit code is 0 and nothing was lost. Else the
          report, and warnings about the command itself. What was asked for by
          --json - or --summary classic is written all the same.
  Colour only for a terminal, and not if NO_COLOR is set or TERM is dumb.
"""

RUN_ENVIRONMENT = """\
environment:
  REDIS_URL, or REDIS_HOST, REDIS_PORT, REDIS_DB; REDIS_PASSWORD if the URL has
  none. CLEANUP_JOB_CONFIG (as -c), CLEANUP_JOB_STALE_AFTER, _ORPHANS,
  _ORPHAN_GRACE, _WORKERS, _ENGINE, _PER_NODE, _MAX_BLOCK_MS, _ALLOW_PARTIAL
  (true or false), _LOCK, _EXPECT_ALL_DEAD, and each limit and throttle above by
  its name (_MAX_PURGE, _NICE, ...); _PASSWORD_FILE, _CA_FILE, _CERT_FILE,
  _KEY_FILE, _SERVER_NAME, _SENTINEL_PASSWORD, _SENTINEL_PASSWORD_FILE (as in
  the file). A flag wins over the environment, the environment over the file.
"""

DEMO = """\
Try it on an embedded server with made-up data.

It starts a server of its own, fills it with dead coordinators and ten that
live, sweeps it, asks the server whether all dead ones are gone and all live
ones untouched, and ends the server. It touches no other server."""

DEMO_EXAMPLES = """\
examples:
  cleanup-job demo                         10,000 dead coordinators
  cleanup-job demo --coordinators 100000   a larger case
  cleanup-job demo --cluster               the same on three primaries
  cleanup-job demo --html report.html      and a page to look at
  cleanup-job demo --keep                  leave the server running

It needs the embedded server: pip install 'cleanup-job[embedded]'
"""

RESTORE = """\
Put back what a run deleted, from the journal of that run.

What exists is never overwritten, and what has expired does not come back. A
journal that was cut or damaged gives all that is whole, and the rest is named.
Restored heartbeats are as stale as they were: stop the timer of the job, or
raise stale_after, before it runs again."""

RESTORE_EXAMPLES = """\
examples:
  cleanup-job run --journal /var/lib/cleanup-job/     a run that can be undone
  cleanup-job restore FILE --dry-run                  what would be put back
  cleanup-job restore FILE --url redis://db.example   put it back
  cleanup-job restore FILE --only coordinator-7       of one coordinator
"""

RENDER = """\
Show the report of an earlier run as a page: one file that needs nothing else.

It reads what --json has written, and contacts no server."""

RENDER_EXAMPLES = """\
examples:
  cleanup-job run --json report.json                  a report to keep
  cleanup-job render report.json --html report.html   and to look at
  cleanup-job run --json - | cleanup-job render - --html report.html
"""

CHECK = """\
Validate a configuration file and show what is in effect.

It says what is wrong with the file and where, or prints all settings with
their defaults, without secrets. It contacts no server."""

CHECK_EXAMPLES = """\
examples:
  cleanup-job check configs/blocking.yaml
  cleanup-job check configs/blocking.yaml > effective.yaml
"""

SCHEMA = """\
Print the JSON Schema of the configuration file, for editors and validators."""

SCHEMA_EXAMPLES = """\
examples:
  cleanup-job schema > cleanup-job.schema.json
"""

ACL = """\
Print the least rights that suffice, and why.

On stdout stands one ACL SETUSER command for redis-cli, on stderr what each
right is for. It contacts no server and changes no user by itself."""

ACL_EXAMPLES = """\
examples:
  cleanup-job acl                                     for one server
  cleanup-job acl --cluster --orphans purge           for each node of a cluster
  cleanup-job acl -c configs/blocking.yaml --dry-run  for who may only look
  cleanup-job acl --restore                           for who undoes a run
"""

COMPLETION = """\
Print a script with which a shell completes our commands and flags.

It is only printed: where it belongs is said below."""

COMPLETION_EXAMPLES = """\
examples:
  cleanup-job completion bash > \\
      ~/.local/share/bash-completion/completions/cleanup-job
  cleanup-job completion zsh > "${fpath[1]}/_cleanup-job"
  cleanup-job completion tcsh > ~/.cleanup-job.tcsh      and source it
  . <(cleanup-job completion bash)                       for this shell alone
"""
