//! Every option, in the order in which `config show` prints them.

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// Dotted, as in the file; upper case with `_` and the prefix `PENDULA_` in the environment.
    pub key: &'static str,
    /// As one would write it.
    pub default: Option<&'static str>,
    /// Never shown.
    pub secret: bool,
    /// Meaning, unit, bounds, and why one would change it.
    pub doc: &'static str,
}

impl Opt {
    /// Its name in the environment.
    pub fn variable(&self) -> String {
        format!("PENDULA_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

const fn option(key: &'static str, default: &'static str, doc: &'static str) -> Opt {
    Opt { key, default: Some(default), secret: false, doc }
}

const fn unset(key: &'static str, doc: &'static str) -> Opt {
    Opt { key, default: None, secret: false, doc }
}

/// Top-level options first, then table by table.
pub const OPTIONS: &[Opt] = &[
    option(
        "listen",
        "127.0.0.1:7700",
        "Where the server listens, as host:port: the REST API, workers' sessions and metrics share this one port.\n\
         Port 0 takes a free one; 0.0.0.0:7700 or [::]:7700 lets other machines in.",
    ),
    unset(
        "advertise",
        "Where the other servers on the same database reach this one, as host:port, when that is not what it listens on\n\
         (0.0.0.0, a container). Alone on its database it is only shown to people.",
    ),
    unset(
        "name",
        "What this server is called among others on the same database, for people. Default: its advertised address.",
    ),
    option(
        "database",
        "sqlite:pendula-data",
        "Where everything is kept. sqlite:DIRECTORY is made when it is missing and belongs to one server process; a\n\
         second one is refused. postgres://USER:PASSWORD@HOST:PORT/DATABASE is shared by any number of servers; several\n\
         hosts with commas between them, and sslmode, sslrootcert as libpq knows them. Prefer the environment to the\n\
         command line for a password.",
    ),
    option(
        "database_cache",
        "64MiB",
        "Memory for the database's most used pages, 1MiB to 64GiB. More helps when there are many more schedules than\n\
         fit into it.",
    ),
    Opt {
        key: "admin_token",
        default: None,
        secret: true,
        doc: "A secret that administers the server, of at least 32 random characters. Without one, a token is made on the\n\
              first start and printed once. Prefer the environment to the file.",
    },
    option(
        "partitions",
        "64",
        "How many parts the work is split into, 1 to 1024. Counts when the database is made and is fixed from then on.\n\
         An app's jobs share one partition, so more of them spread more apps over more loops.",
    ),
    option("retention", "30d", "How long ended instances and their logs are kept unless their job says otherwise."),
    option(
        "shutdown_within",
        "10s",
        "How long a stopping server waits for open requests and commits. Running tasks do not count: their workers\n\
         keep them and report to the next server.",
    ),
    unset("tls.cert", "Certificate chain of the port, as a PEM file. With it and tls.key the port speaks TLS only."),
    unset("tls.key", "Private key of the certificate, as a PEM file."),
    unset(
        "tls.peer_ca",
        "Certificates that those of other servers are checked with, as a PEM file. Default: those of the system.",
    ),
    option(
        "engine.look_ahead",
        "15s",
        "How far ahead schedules are kept in memory. Longer reads the database less often and holds more.",
    ),
    option(
        "engine.lost_after",
        "10s",
        "How long work waits for its vanished worker to come back before it counts as lost. Shorter recovers sooner,\n\
         longer forgives longer interruptions of the network.",
    ),
    option(
        "engine.adoption_grace",
        "30s",
        "The same right after the server started, when all workers have to come back.",
    ),
    option(
        "engine.misfire_after",
        "10s",
        "A fire time that is met later than this is a misfire, and the job's misfire policy decides. It is more than a\n\
         crashed server's work waits for another one, so that what was due meanwhile is done, late, whatever the policy.",
    ),
    option(
        "limits.active_instances",
        "2000000",
        "Instances that have not ended, per partition. Further runs are refused until some end; each takes about 1 KiB\n\
         of memory.",
    ),
    option("limits.connections", "20000", "Connections that are open at once. Further ones are closed at once."),
    option("limits.sessions", "10000", "Workers that are connected at once."),
    option("limits.header_timeout", "10s", "How long a client may take for TLS and for the head of a request."),
    unset(
        "powerjob.http.listen",
        "Where PowerJob's workers and clients find this server, as host:port: discovery, transport and OpenAPI share this\n\
         one port. Unset, the gateway is off. Its workers cannot authenticate: bind it to networks that you trust.",
    ),
    unset(
        "powerjob.http.advertise",
        "Where workers reach that port, as host:port with an IPv4 address or a host name, when that is not what it listens\n\
         on (0.0.0.0, a container).",
    ),
    unset(
        "powerjob.akka.listen",
        "Where PowerJob's workers that speak Akka find this server, as host:port; PowerJob's own servers take port 10086.\n\
         Versions 4.0 to 5.1. Unset, they are refused. Unauthenticated, as the port for HTTP, which it needs: there workers\n\
         learn of this one.",
    ),
    unset(
        "powerjob.akka.advertise",
        "Where workers reach that port, as host:port with an IPv4 address or a host name, when that is not what it listens\n\
         on.",
    ),
    unset(
        "powerjob.allow",
        "Which apps PowerJob's workers may serve, and in which networks those may be, as\n\
         billing=10.1.0.0/16,10.2.0.7; reports=127.0.0.0/8. An app that is not named accepts none, and nothing else is\n\
         ever called by the gateway. Each server of a cluster has its own list, for what comes to its own ports.",
    ),
    option(
        "powerjob.protocols",
        "http",
        "Protocols that PowerJob's workers are meant to use, as a list: HTTP, AKKA. AKKA is served when it has a port,\n\
         `powerjob.akka.listen`; named here without one, the server does not start.",
    ),
    option(
        "powerjob.openapi",
        "on",
        "Whether clients of PowerJob's OpenAPI are served on that port: on or off. Each app has its own secret for them:\n\
         `pendula token create --kind powerjob`.",
    ),
    option("log.format", "text", "How the server's own log lines look: text or json."),
    option(
        "log.filter",
        "info",
        "Which log lines are written: error, warn, info, debug or trace, or one of them per part of the program as\n\
         in `info,pendula_server=debug`.",
    ),
];

/// The option written as `key`.
pub(super) fn find(key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.key == key)
}

/// The option that somebody who wrote `key` may have meant.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let wanted = key.to_ascii_lowercase();
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let far = |option: &Opt| {
        let whole = distance(&wanted, option.key);
        // A right name in the wrong table is nearer than any misspelling.
        if last(&wanted) == last(option.key) { whole.min(1) } else { whole }
    };
    let nearest = OPTIONS.iter().min_by_key(|option| far(option))?;
    (far(nearest) <= 3.min(wanted.chars().count() / 2)).then_some(nearest.key)
}

/// The option whose variable somebody misspelled by at most two letters; `rest` is what follows `PENDULA_`.
pub(super) fn nearest_variable(rest: &str) -> Option<&'static str> {
    let wanted = rest.to_ascii_lowercase();
    let far = |option: &Opt| distance(&wanted, &option.key.replace('.', "_"));
    let nearest = OPTIONS.iter().min_by_key(|option| far(option))?;
    (far(nearest) <= 2).then_some(nearest.key)
}

/// Levenshtein's: insertions, deletions and replacements.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
