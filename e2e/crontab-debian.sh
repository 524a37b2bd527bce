#!/bin/bash
# Imports the crontabs that Debian packages ship, checks that each line is accounted for and fires when cron would, and
# runs two of the jobs. The files are other people's text, so they are downloaded and not kept here.
#
# Usage: e2e/crontab-debian.sh   (needs apt-get, dpkg, python3 and the network; PENDULA_BIN names another binary)
# INSTALL=1 installs a few of the packages (as root) and imports this machine's own files, so that the jobs succeed.
set -euo pipefail

pendula=${PENDULA_BIN:-$(cd "$(dirname "$0")/.." && pwd)/target/release/pendula}
packages=(cron-daemon-common sysstat certbot php-common mdadm e2fsprogs anacron logcheck munin-node)
work=$(mktemp -d)
dev=
trap '[ -z "$dev" ] || kill "$dev" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
fail() { echo "crontab-check: $*" >&2; exit 1; }

files=()
if [ -n "${INSTALL:-}" ]; then
    apt-get -q install -y --no-install-recommends cron sysstat php-common > "$work/apt.log" 2>&1 || { cat "$work/apt.log"; fail "apt-get install failed"; }
    files=(/etc/crontab /etc/cron.d)
else
    # Packages are unpacked, not installed: nothing changes on this machine.
    echo "fetching: ${packages[*]}"
    (cd "$work" && chmod 755 . && mkdir packages root && cd packages && apt-get -q download "${packages[@]}" > ../apt.log 2>&1) ||
        { cat "$work/apt.log"; fail "apt-get download failed; run apt-get update first"; }
    for package in "$work"/packages/*.deb; do dpkg -x "$package" "$work/root"; done
    # Older releases write /etc/crontab when the package is installed; then the machine's own stands in, if there is one.
    if [ ! -e "$work/root/etc/crontab" ] && [ -e /etc/crontab ]; then cp /etc/crontab "$work/root/etc/crontab"; fi
    [ ! -e "$work/root/etc/crontab" ] || files+=("$work/root/etc/crontab")
    files+=("$work/root/etc/cron.d")
fi

export PENDULA_PROFILES=$work/profiles.toml
unset PENDULA_SERVER PENDULA_TOKEN PENDULA_TOKEN_FILE PENDULA_PROFILE PENDULA_APP PENDULA_OUTPUT PENDULA_CONFIG
"$pendula" dev --port 0 --data "$work/dev" > "$work/dev.log" 2>&1 &
dev=$!
for _ in $(seq 300); do
    "$pendula" worker list 2>/dev/null | grep -q connected && break
    kill -0 "$dev" 2>/dev/null || { cat "$work/dev.log"; fail "pendula dev ended"; }
    sleep 0.1
done

"$pendula" import crontab "${files[@]}" --timezone Europe/Berlin
"$pendula" import crontab "${files[@]}" --timezone Europe/Berlin --output json > "$work/report.json"

# Counts the lines by itself, and asks the server for the next fires of every job.
"$pendula" job list --output json > "$work/jobs.json"
python3 - "$work" <<'PYTHON'
import json, os, sys
work = sys.argv[1]
report = json.load(open(f"{work}/report.json"))
jobs = {job["spec"]["name"]: job for job in json.load(open(f"{work}/jobs.json"))}
total = 0
for file in report["files"]:
    with open(file["file"], encoding="utf-8") as text:
        expect = [n for n, line in enumerate(text, 1) if line.strip() and not line.lstrip().startswith("#")]
    got = [line["line"] for line in file["lines"]]
    assert got == expect, f"{file['file']}: lines {expect}, reported {got}"
    total += len(got)
    for line in file["lines"]:
        assert line["status"] in ("imported", "env", "unsupported"), line
        if line["status"] != "imported":
            continue
        assert line["action"] == "unchanged", f"a second import changed {line['job']['name']}: {line['action']}"
        job = jobs[line["job"]["name"]]
        assert job["next_fire"] == line["next"][0], (job["next_fire"], line["next"])
imported = sum(line["status"] == "imported" for file in report["files"] for line in file["lines"])
assert imported >= 6, f"only {imported} entries; are the packages what they were?"
print(f"crontab-check: {total} lines in {len(report['files'])} files accounted for, {imported} jobs, next fires agree")
PYTHON

# Two that are harmless anywhere: they look for something first, and may fail because it is not installed here.
ran=0
for name in $("$pendula" job list --output json | python3 -c '
import json, sys
names = [job["spec"]["name"] for job in json.load(sys.stdin)]
print(*[name for name in names if name.startswith(("crontab-cron.hourly-", "php-"))])'); do
    code=0
    "$pendula" job run "$name" --wait || code=$?
    [ "$code" -le 1 ] || fail "running $name ended with $code"
    "$pendula" job history "$name" -n 1
    ran=$((ran + 1))
    [ "$ran" -lt 2 ] || break
done
[ "$ran" -eq 2 ] || fail "only $ran jobs ran"
echo "crontab-check: ok"
