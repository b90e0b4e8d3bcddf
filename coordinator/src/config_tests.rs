//! Good files are read, bad ones are told with every fault.

use super::*;

const SAMPLE: &str = include_str!("../../deploy/local/coordinator.yaml");

fn env(name: &str) -> Option<String> {
    (name == "ETCD_PASSWORD").then(|| "hidden-word".to_owned())
}

fn of(text: &str) -> Result<CoordinatorConfig, ConfigError> {
    load(text, "c.yaml", Path::new("/etc/millrace"), &env)
}

#[test]
fn the_documented_sample_is_sound_also_with_everything_in_it() {
    let config = of(SAMPLE).unwrap();
    assert_eq!(config.advertise, config.listen.to_string());
    // What is commented out with `#~` is sound too.
    let whole = SAMPLE.replace("#~ ", "").replace("#~", "");
    let config = of(&whole).unwrap();
    assert_eq!(
        config.etcd.login,
        Some(("millrace".to_owned(), "hidden-word".to_owned()))
    );
    assert_eq!(
        config.tls.unwrap().certificate,
        Path::new("/etc/millrace/tls/coordinator.pem")
    );
    assert_eq!(config.tokens[0].role, Role::Admin);
    assert!(!format!("{:?}", config.etcd).contains("hidden-word"));
}

#[test]
fn every_fault_is_named_with_its_line_and_key() {
    let text = "name: c 1\nlisten: 0.0.0.0:7400\nscheduler_listen: here\nlease_seconds: 1\n\
        etcd: {endpoints: [], user: a}\ntokens:\n  - {name: a, role: admin, blake3: '00'}\n\
        limits: {calls_per_second: 0}\nenvironment: '${env:GONE}'\n";
    let error = of(text).unwrap_err();
    let places: Vec<_> = error
        .faults
        .iter()
        .map(|fault| (fault.line, fault.key.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (1, "name"),
            (3, "scheduler_listen"),
            (2, "advertise"),
            (5, "etcd.endpoints"),
            (5, "etcd"),
            (7, "tokens[0].blake3"),
            (8, "limits.calls_per_second"),
            (4, "lease_seconds"),
            (9, "environment"),
        ]
    );
    assert!(
        error
            .to_string()
            .contains("c.yaml:9: environment: the environment variable `GONE`"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = of(&SAMPLE.replace("lease_seconds", "leese_seconds")).unwrap_err();
    assert!(
        error.faults[0].line > 1 && error.to_string().contains("leese_seconds"),
        "{error}"
    );
}
