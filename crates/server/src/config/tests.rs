use super::*;

fn load(toml: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("pendula.toml");
    std::fs::write(&file, toml).expect("a small file");
    let environment = environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Config::load(&ConfigSources { file: Some(file), environment, flags })
}

fn refusal(toml: &str) -> String {
    load(toml, &[], Flags::default()).expect_err(toml).to_string()
}

#[test]
fn defaults_yield_to_file_environment_and_flags_in_this_order() {
    let toml = "listen = '0.0.0.0:1'\nretention = '7d'\n[log]\nformat = 'json'\n[limits]\nsessions = 5";
    let flags =
        Flags { listen: Some("[::1]:3".to_owned()), set: vec!["database_cache=1MiB".to_owned()], ..Flags::default() };
    let environment = [("PENDULA_LISTEN", "127.0.0.1:2"), ("PENDULA_LOG_FORMAT", "TEXT"), ("HOME", "/")];
    let config = load(toml, &environment, flags).expect("all good");
    assert_eq!(config.listen, "[::1]:3");
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.retention, Duration::from_secs(7 * 86_400));
    assert_eq!((config.limits.sessions, config.database_cache), (5, 1 << 20));
    assert_eq!(config.partitions, 64);
    assert_eq!(config.settings().look_ahead, Settings::default().look_ahead);
}

#[test]
fn the_engines_defaults_are_ours() {
    let (ours, engine) = (Config::default().settings(), Settings::default());
    assert_eq!(format!("{ours:?}"), format!("{engine:?}"));
}

#[test]
fn s5_1_every_spelling_is_normalised_or_refused_with_file_key_value_and_what_is_allowed() {
    for spelling in ["json", "JSON", "Json", " json", "json "] {
        for by_file in [true, false] {
            let (toml, environment) = match by_file {
                true => (format!("log.format = '{spelling}'"), vec![]),
                false => (String::new(), vec![("PENDULA_LOG_FORMAT", spelling)]),
            };
            let config = load(&toml, &environment, Flags::default()).expect(spelling);
            assert_eq!(config.log.format, LogFormat::Json, "{spelling}");
        }
    }
    for spelling in ["", "jsn", "json,text", "json，text", "json,", "true", "ｊson"] {
        let refused = refusal(&format!("log.format = '{spelling}'"));
        assert!(refused.contains("pendula.toml: `log.format`"), "{refused}");
        assert!(refused.contains(&format!("`{spelling}`")) && refused.ends_with("allowed: text, json"), "{refused}");
        let flags = Flags { log_format: Some(spelling.to_owned()), ..Flags::default() };
        let refused = load("", &[], flags).expect_err(spelling).to_string();
        assert!(refused.starts_with("flag --log-format"), "{refused}");
    }
    for spelling in ["127.0.0.1:7700", " 127.0.0.1:7700 ", "[::]:7700", "LOCALHOST:0", "pendula.example.org:80"] {
        assert!(load(&format!("listen = '{spelling}'"), &[], Flags::default()).is_ok(), "{spelling}");
    }
    for spelling in ["", "7700", ":7700", "127.0.0.1", "http://127.0.0.1:7700", "::1:7700", "a:70000", "a:b", "a b:1"] {
        let refused = refusal(&format!("listen = '{spelling}'"));
        assert!(refused.contains("`listen`") && refused.contains("host:port"), "{refused}");
    }
    let urls = ["postgres://u:hunter2@h/d", "PostgreSQL://h1:1,h2:2/d?sslmode=require"];
    for spelling in ["sqlite:data", "SQLite:data", "sqlite:///var/lib/pendula"].into_iter().chain(urls) {
        assert!(load(&format!("database = '{spelling}'"), &[], Flags::default()).is_ok(), "{spelling}");
    }
    for spelling in ["data", "sqlite:", "sqlite://", "mysql://u:hunter2@h/d", "postgres:h", "postgres://"] {
        let refused = refusal(&format!("database = '{spelling}'"));
        assert!(refused.contains("sqlite:DIRECTORY") && !refused.contains("hunter2"), "{refused}");
    }
    for toml in [
        "retention = 30",
        "retention = '30'",
        "retention = '-1d'",
        "database_cache = '4 parsecs'",
        "database_cache = 1",
    ] {
        assert!(refusal(toml).contains("write a"), "{toml}");
    }
}

#[test]
fn the_databases_password_is_shown_nowhere() {
    let config = load("database = 'postgres://u:hunter2@h/d'", &[], Flags::default()).expect("a good one");
    let Database::Postgres(url) = &config.database else { panic!("{:?}", config.database) };
    assert_eq!(url.reveal(), "postgres://u:hunter2@h/d");
    for shown in [format!("{config:?}"), config.to_toml_documented()] {
        assert!(shown.contains("@h/d") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn unknown_options_are_errors_that_name_the_nearest() {
    for (toml, nearest) in [
        ("listn = 'a:1'", Some("listen")),
        ("look_ahead = '15s'", Some("engine.look_ahead")),
        ("[log]\nfromat = 'json'", Some("log.format")),
        ("[frobnication]\nlevel = 9", None),
    ] {
        let refused = refusal(toml);
        assert!(refused.contains("no such option"), "{refused}");
        assert_eq!(refused.contains("did you mean"), nearest.is_some(), "{refused}");
        assert!(nearest.is_none_or(|nearest| refused.contains(&format!("`{nearest}`?"))), "{refused}");
    }
    let set = Flags { set: vec!["limits.session=3".to_owned()], ..Flags::default() };
    assert!(load("", &[], set).expect_err("unknown").to_string().contains("`limits.sessions`?"));
    for variable in ["PENDULA_LISTN", "PENDULA_LOG_FROMAT"] {
        assert!(load("", &[(variable, "x")], Flags::default()).is_err(), "{variable}");
    }
    let foreign =
        [("PENDULA_TOKEN", "x"), ("PENDULA_SERVICE_HOST", "10.0.0.1"), ("PENDULA_PORT", "tcp://10.0.0.1:7700")];
    let config = load("", &foreign, Flags::default()).expect("these come from elsewhere");
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
}

#[test]
fn what_is_shown_can_be_loaded_and_has_no_secret() {
    let flags = Flags {
        set: vec![
            "admin_token=s3cr3t-0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p".to_owned(),
            "tls.cert=c'\"\\.pem".to_owned(),
            "tls.key=k".to_owned(),
        ],
        ..Flags::default()
    };
    let config = load("limits.sessions = 7", &[], flags).expect("all good");
    let shown = config.to_toml_documented();
    assert!(!shown.contains("s3cr3t") && !format!("{config:?}").contains("s3cr3t"), "{shown}");
    let again = load(&shown, &[], Flags::default()).expect("what we wrote ourselves");
    assert_eq!((again.limits, again.tls), (config.limits, config.tls));
    for option in OPTIONS {
        assert!(!option.doc.is_empty() && shown.contains(&option.variable()), "{}", option.key);
    }
}

#[test]
fn sec_2_a_weak_admin_token_is_refused_and_not_repeated() {
    for weak in ["123456", "default_token", "powerjob_admin", "hunter2-hunter2"] {
        let refused = load("", &[("PENDULA_ADMIN_TOKEN", weak)], Flags::default()).expect_err(weak).to_string();
        assert!(refused.contains("PENDULA_ADMIN_TOKEN") && !refused.contains(weak), "{refused}");
    }
}

#[test]
fn half_a_tls_configuration_is_refused() {
    assert!(refusal("tls.cert = 'a.pem'").contains("tls.key"));
    assert!(load("listen = '0.0.0.0:1'", &[], Flags::default()).expect("works").warnings[0].contains("tls"));
}

#[test]
fn s5_1_powerjobs_protocols_are_normalised_or_refused_with_what_is_allowed() {
    let with = |protocols: &str| {
        let toml = format!(
            "[powerjob]\nprotocols = \"{protocols}\"\nallow = 'demo=10.0.0.0/8'\n[powerjob.http]\nlisten = '10.0.0.1:7701'"
        );
        load(&toml, &[], Flags::default())
    };
    for spelling in ["http", "HTTP", "Http", " http", "HTTP,http", "http,", "HTTP\u{ff0c}"] {
        let config = with(spelling).expect(spelling);
        assert!(config.powerjob.is_some_and(|powerjob| powerjob.allow.has("demo") && powerjob.openapi), "{spelling}");
        assert!(config.warnings.iter().any(|warning| warning.contains("unauthenticated")), "{:?}", config.warnings);
    }
    for wrong in ["", "htp", "AKKA", "akka", "HTTP,AKKA"] {
        let refusal = with(wrong).expect_err(wrong).to_string();
        for part in ["pendula.toml", "powerjob.protocols", "allowed: HTTP"] {
            assert!(refusal.contains(part), "{wrong}: {refusal}");
        }
    }
}

#[test]
fn the_powerjob_gateway_is_off_until_it_has_a_port_that_workers_can_find() {
    assert_eq!(Config::default().powerjob, None);
    assert!(refusal("[powerjob]\nallow = 'demo=10.0.0.0/8'").contains("powerjob.http.listen"));
    assert!(refusal("[powerjob.http]\nlisten = '0.0.0.0:7701'").contains("powerjob.http.advertise"));
    assert!(refusal("[powerjob.http]\nlisten = '[::1]:7701'").contains("IPv4"));
    let with_akka = |akka: &str| format!("[powerjob.http]\nlisten = '10.0.0.1:7701'\n[powerjob.akka]\n{akka}");
    assert!(refusal("[powerjob.akka]\nlisten = '10.0.0.1:10086'").contains("powerjob.http.listen"));
    assert!(refusal(&with_akka("listen = '0.0.0.0:10086'")).contains("powerjob.akka.advertise"));
    assert!(refusal(&with_akka("listen = '[::1]:10086'")).contains("IPv4"));
    assert!(refusal(&with_akka("advertise = '10.0.0.1:10086'")).contains("powerjob.akka.listen"));
    let config = load(&with_akka("listen = '10.0.0.1:10086'"), &[], Flags::default()).expect("it is whole");
    assert_eq!(
        config.powerjob.and_then(|powerjob| powerjob.akka).map(|akka| akka.listen),
        Some("10.0.0.1:10086".into())
    );
    assert!(refusal("[powerjob]\nallow = 'demo'\n[powerjob.http]\nlisten = '127.0.0.1:1'").contains("APP=NETWORK"));
}
