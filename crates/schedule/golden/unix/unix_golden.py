"""Writes what cronsim, a Python library that follows Debian's cron, answers, one case per line:
expression, zone, start, then the fires after the start (or "refused"), separated by tabs and commas.

Run in this directory when the cases change; the output is kept in the repository:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python unix_golden.py > ../unix.tsv
"""

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FIRES = 8

# Every form of every field, where the zone does not matter.
IN_UTC = [
    "* * * * *", "*/7 * * * *", "5 * * * *", "1,2,3 * * * *", "10-20/3 * * * *", "5/20 * * * *", "*/60 * * * *",
    "0 */5 * * *", "0 8-18/2 * * *", "30 4 * * *", "15,45 9,17 * * *", "59 23 31 12 *", "0 0 * * *",
    "0 0 1 * *", "0 0 31 * *", "0 0 29 2 *", "0 0 */10 * *", "0 0 1-7 * *", "0 0 1/9 * *", "0 12 28-31 * *",
    "0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * MON-FRI", "0 0 * * 1-5", "0 0 * * 5-7", "0 0 * * */2",
    "0 0 * * */3", "0 0 * * 1/2", "0 0 * * tue,THU", "0 0 * * 0,6",
    "0 0 13 * 5", "0 0 1,15 * 5", "30 4 1,15 * 5", "0 0 */2 * 1", "0 0 1-7 * */2", "0 0 * * 1-5", "0 0 1-31 * 1",
    "0 0 1-7 * 1", "0 0 31 2 1", "0 0 29 2 1", "0 12 */9 * 0-6",
    "0 0 1 1 *", "0 0 1 jan *", "0 0 1 JAN,jul *", "0 0 1 */4 *", "0 0 1 2/3 *", "0 0 1 3-6 *", "0 0 15 6 3",
    "*/15 9-17 * * 1-5", "0 22 * * 1-5", "23 0-20/2 * * *", "5 4 * * sun", "17 * * * *", "25 6 * * *", "47 6 * * 7",
    "52 6 1 * *", "5-55/10 * * * *", "57 0 * * 0", "30 7-23 * * *", "10 3 * * *", "0 1-23/6 1-10/3 2-8/2 1-5/2",
]

UTC_STARTS = ["2026-01-01T00:00:00", "2028-02-28T23:59:00"]

# Around clock changes; what Debian's cron does then is part of the test.
IN_ZONES = [
    "30 2 * * *", "0 2 * * *", "15 1 * * *", "30 1 * * *", "0 3 * * *", "0 0 * * *", "30 0 * * *", "45 23 * * *", "10 0,1,2,3 * * *",
    "*/30 * * * *", "15 * * * *", "0 12 * * 1", "20,40 2 * * *", "0 4 1 * *", "*/20 2 * * *", "0 */2 * * *",
]

# Zones, each with local times shortly before its clocks go forward and before they go back.
ZONES = [
    ("Europe/Berlin", "2026-03-29T00:10:00", "2026-10-25T00:10:00"),
    ("America/New_York", "2026-03-08T00:10:00", "2026-11-01T00:10:00"),
    ("America/Santiago", "2025-09-06T22:10:00", "2025-04-05T21:10:00"),
    ("Australia/Lord_Howe", "2025-10-05T00:10:00", "2025-04-06T00:10:00"),
    ("Asia/Kathmandu", "2026-02-27T23:10:00", "1985-12-31T22:10:00"),
    ("Pacific/Apia", "2011-12-29T22:10:00", "2012-04-01T01:10:00"),
    ("Asia/Shanghai", "2026-04-30T22:10:00", "1990-09-15T22:10:00"),
]

MALFORMED = [
    "", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8",
    "*/0 * * * *", "5-1 * * * *", "* * * * fri-mon", "a * * * *", "1, * * * *", "* * * foo *", "1-2-3 * * * *", "-5 * * * *",
    "*5 * * * *", "1//2 * * * *", "? * * * *", "* 22-2 * * *",
]


def write(expression, zone, start):
    local = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone) if zone != "UTC" else timezone.utc)
    fires = []
    try:
        for fire in CronSim(expression, local):
            fire = fire.astimezone(timezone.utc)
            # Several times that one gap skips all come out as its end; cron starts a job once a minute.
            if fires[-1:] != [fire]:
                fires.append(fire)
            if len(fires) == FIRES:
                break
    except CronSimError:
        print(expression, zone, local.astimezone(timezone.utc).strftime("%FT%TZ"), "refused", sep="\t")
        return
    instants = ",".join(fire.strftime("%FT%TZ") for fire in fires)
    print(expression, zone, local.astimezone(timezone.utc).strftime("%FT%TZ"), instants, sep="\t")


for expression in IN_UTC:
    for start in UTC_STARTS:
        write(expression, "UTC", start)
for zone, *starts in ZONES:
    for expression in IN_ZONES:
        for start in starts:
            write(expression, zone, start)
for expression in MALFORMED:
    write(expression, "UTC", UTC_STARTS[0])
