import java.text.ParseException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import java.util.TimeZone;
import org.quartz.CronExpression;

/**
 * Writes what Quartz's own CronExpression answers, one case per line:
 * expression, zone, start, then the fires after the start (or "refused"), separated by tabs and commas.
 *
 * Run in this directory when the cases change; the output is kept in the repository:
 *
 *   mvn -q dependency:copy-dependencies && java -cp 'target/dependency/*' QuartzGolden.java > ../quartz.tsv
 *
 * Times of day are chosen outside of skipped and repeated hours: there Quartz follows java.util.Calendar, and our
 * policies are tested by tables of their own. The clock changes still fall between the fires.
 */
public class QuartzGolden {
    static final int FIRES = 8;

    /** Every form of every field, where the zone does not matter. */
    static final String[] IN_UTC = {
        "* * * * * ?", "0/5 * * * * ?", "*/7 * * * * ?", "/15 * * * * ?", "5/20 * * * * ?", "10-20/3 * * * * ?",
        "50-10 * * * * ?", "50-10/4 * * * * ?", "0,30,59 * * * * ?", "15 * * * * ?",
        "0 * * * * ?", "0 0/7 * * * ?", "0 */13 * * * ?", "0 3,5,57 * * * ?", "0 55-5 * * * ?", "30 10-50/20 * * * ?",
        "0 0 * * * ?", "0 0 0/5 * * ?", "0 0 */7 * * ?", "0 30 8-18/2 * * ?", "0 0 22-2 * * ?", "0 0 22-4/2 * * ?",
        "0 0/7 22-2 ? * FRI-MON", "0 15 10 * * ? *", "59 59 23 * * ?", "0 0 0 * * ?",
        "0 0 12 1 * ?", "0 0 12 31 * ?", "0 0 12 29,30 * ?", "0 0 12 1/5 * ?", "0 0 12 */10 * ?", "0 0 12 28-3 * ?",
        "0 0 12 10-20/4 * ?", "0 0 12 L * ?", "0 0 12 L-1 * ?", "0 0 12 L-3 * ?", "0 0 12 L-27 * ?", "0 0 12 LW * ?",
        "0 0 12 L-3W * ?", "0 0 12 L-6W * ?", "0 0 12 1W * ?", "0 0 12 15W * ?", "0 0 12 8W * ?", "0 0 12 28W * ?",
        "0 0 12 15,L * ?", "0 0 12 1,15W * ?", "0 0 12 1W,15W * ?", "0 0 12 10,LW * ?", "0 0 12 5,L-5 * ?",
        "0 0 12 29 2 ?", "0 0 12 L 2 ?", "0 0 12 LW 2 ?", "0 0 12 29W 2 ?", "0 0 12 30 1-3 ?",
        "0 0 12 ? * MON", "0 0 12 ? * 1", "0 0 12 ? * 7", "0 0 12 ? * MON-FRI", "0 0 12 ? * mon,wed,fri",
        "0 0 12 ? * FRI-MON", "0 0 12 ? * 6-2", "0 0 12 ? * 7-1", "0 0 12 ? * 2/2", "0 0 12 ? * */3", "0 0 12 ? * 2-6/2",
        "0 0 12 ? * L", "0 0 12 ? * 6L", "0 0 12 ? * FRIL", "0 0 12 ? * 1L", "0 0 12 ? * SUNL", "0 0 12 ? * 7L",
        "0 0 12 ? * 6#1", "0 0 12 ? * 6#3", "0 0 12 ? * FRI#2", "0 0 12 ? * 2#5", "0 0 12 ? * 1#5", "0 0 12 ? * SUN#1",
        "0 0 12 ? 2 5#5 2026-2099", "0 0 12 ? 1,7 MON#1", "0 0 12 ? JAN-MAR *", "0 0 12 ? NOV-FEB MON",
        "0 0 12 1 1 ?", "0 0 12 1 JAN,jul ?", "0 0 12 1 */4 ?", "0 0 12 1 2/3 ?", "0 0 12 1 11-2 ?", "0 0 12 31 DEC ?",
        "0 0 12 1 1 ? 2027", "0 0 12 ? 1 MON 2027-2029", "0 0 12 1 6 ? 2026/2", "0 0 12 1 6 ? */3", "0 0 12 29 2 ? 2028,2032",
        "0 0 12 1 1 ? 2099", "0 0 12 1 1 ? 1999", "0 0 0 1 1 ? 2026-2028/2", "59 59 23 31 12 ? 2027-2031",
        "30 15 6 25 12 ? *", "0 0/30 9-17 ? * MON-FRI", "0 0 18 L 3,6,9,12 ?", "0 45 23 ? 1-6 6L 2027-2030",
        "1-3,30-32 5/25 3,15 ? * TUE,THU",
    };

    /** The instants from which each of them starts. */
    static final String[] UTC_STARTS = {"2026-01-01T00:00:00Z", "2028-02-28T23:59:59Z"};

    /** Times of day that no zone below skips or repeats. */
    static final String[] IN_ZONES = {
        "0 0 12 * * ?", "0 30 5 ? * SUN,MON", "0 0/45 8-10 * * ?", "0 15 20 L * ?", "30 59 21 ? * SAT",
        "0 0 6 LW * ?", "0 0 14 ? * 1#2", "0 0 4 1 * ?", "0 10 22 29 2 ?",
    };

    /** Zones, each with an instant shortly before its clocks go forward and one before they go back. */
    static final String[][] ZONES = {
        {"Europe/Berlin", "2026-03-27T10:00:00Z", "2026-10-23T10:00:00Z"},
        {"America/New_York", "2026-03-06T18:00:00Z", "2026-10-30T18:00:00Z"},
        {"America/Santiago", "2025-09-05T18:00:00Z", "2025-04-04T18:00:00Z"},
        {"Australia/Lord_Howe", "2025-10-03T00:00:00Z", "2025-04-04T00:00:00Z"},
        {"Asia/Kathmandu", "2026-02-27T12:00:00Z", "2028-02-27T12:00:00Z"},
        {"Pacific/Apia", "2011-12-31T20:00:00Z", "2012-03-30T20:00:00Z"},
        {"Asia/Shanghai", "2026-04-29T12:00:00Z", "2026-12-30T12:00:00Z"},
        {"UTC", "2026-06-29T12:00:00Z", "2027-12-30T12:00:00Z"},
    };

    static final String[] MALFORMED = {
        "", "* * * *", "0 0 12 * * ? * *", "60 * * * * ?", "0 60 * * * ?", "0 0 24 * * ?", "0 0 12 0 * ?", "0 0 12 32 * ?",
        "0 0 12 1 0 ?", "0 0 12 1 13 ?", "0 0 12 ? * 0", "0 0 12 ? * 8", "0 0 12 ? * ?", "? * * * * ?", "0 0 12 1 ? ?",
        "0 0 12 ? * 6#6", "0 0 12 ? * 6#0", "0 0 12 L-31 * ?", "0 0 12 ? * FOO", "0 0 12 1 FOO ?", "0/60 * * * * ?",
        "0 0/70 * * * ?", "0 0 0/24 * * ?", "0 0 0 1/32 * ?", "0 0 12 ? * 1/8", "0 0 12 1 1/13 ?", "a * * * * ?",
        "0 0 5L * * ?", "0 0 12W * * ?", "0 0 3#2 * * ?", "0 / * * * ?", "0 0 12 32W * ?", "0 0 12 1 1 ? 2028-2026",
        "0 0 12 1 * MON",
    };

    public static void main(String[] arguments) {
        for (String expression : IN_UTC) {
            for (String start : UTC_STARTS) {
                write(expression, "UTC", start);
            }
        }
        for (String[] zone : ZONES) {
            for (String expression : IN_ZONES) {
                write(expression, zone[0], zone[1]);
                write(expression, zone[0], zone[2]);
            }
        }
        for (String expression : MALFORMED) {
            write(expression, "UTC", UTC_STARTS[0]);
        }
    }

    static void write(String expression, String zone, String start) {
        List<String> fires = new ArrayList<>();
        try {
            CronExpression cron = new CronExpression(expression);
            cron.setTimeZone(TimeZone.getTimeZone(zone));
            Date fire = cron.getTimeAfter(Date.from(Instant.parse(start)));
            for (; fire != null && fires.size() < FIRES; fire = cron.getTimeAfter(fire)) {
                fires.add(fire.toInstant().toString());
            }
        } catch (ParseException refused) {
            fires.add("refused");
        }
        System.out.println(String.join("\t", expression, zone, start, String.join(",", fires)));
    }
}
