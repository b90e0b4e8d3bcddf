//! The handoff into Redshift as a user whom AWS gives, as the simulator plays it: over TLS, for as long as the login lasts.
//!
//! Each story runs in a process of its own: the authorities that TLS trusts are the system's, which the environment names.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use millrace_coordinator::handoff::HandoffError;
use millrace_loadtest::papers::Papers;
use millrace_loadtest::redshift_sim::{Account, Fault, Simulator};
use millrace_pipeline::spec::model::{Iam, RedshiftAccess, RedshiftTarget, Secret};

use crate::data_api::ApiStage;
use crate::loads::PATIENCE;
use crate::redshift::{expire_through, replace_periods_through};

/// Names the folder of certificates to the process of a story.
const PAPERS: &str = "MILLRACE_TEST_PAPERS";

/// Runs a story in a process that trusts its own authority, on a stage with so many batches.
fn story<F: Future<Output = ()>>(name: &str, batches: usize, story: impl FnOnce(IamStage) -> F) {
    let Some(folder) = std::env::var_os(PAPERS) else {
        return in_a_process(name);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        story(IamStage::set(Path::new(&folder), batches).await).await;
    });
}

fn in_a_process(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let papers = Papers::issue(folder.path()).unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg(format!("iam::{name}"))
        .env(PAPERS, folder.path())
        .env("SSL_CERT_FILE", papers.path("ca.pem"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}\n{errors}"
    );
}

struct IamStage {
    api: ApiStage,
}

fn cluster(name: &str, db_user: Option<&str>) -> RedshiftTarget {
    RedshiftTarget::Cluster {
        name: name.to_owned(),
        db_user: db_user.map(str::to_owned),
    }
}

fn workgroup(name: &str) -> RedshiftTarget {
    RedshiftTarget::Workgroup(name.to_owned())
}

impl IamStage {
    async fn set(papers: &Path, batches: usize) -> Self {
        let api = ApiStage::set(batches).await;
        let account = Account {
            cluster: "main".to_owned(),
            workgroup: "analytics".to_owned(),
            user: "loader".to_owned(),
            role: "load".to_owned(),
        };
        let read = |file: &str| std::fs::read(papers.join(file)).unwrap();
        let (certificate, key) = (read("server.pem"), read("server.key"));
        api.stage
            .simulator
            .demand_logins(account, &certificate, &key)
            .unwrap();
        Self { api }
    }

    fn access(&self, target: RedshiftTarget) -> RedshiftAccess {
        self.access_at(self.api.stage.simulator.address, target)
    }

    fn access_at(&self, address: std::net::SocketAddr, target: RedshiftTarget) -> RedshiftAccess {
        RedshiftAccess::Iam {
            dsn: Secret::new(format!("postgres://{address}/dev")),
            iam: Iam {
                target,
                region: None,
                endpoint: Some(format!("http://{}", self.api.address)),
            },
        }
    }

    /// Why nothing is loaded.
    async fn refused(&self, access: RedshiftAccess) -> HandoffError {
        let stage = &self.api.stage;
        let table = stage.server.table();
        let state = stage.bench.state().await;
        stage.handoff_by(access, &table).round(&state).await.unwrap_err()
    }

    fn asked(&self) -> Vec<String> {
        self.api.stage.simulator.logins_asked()
    }
}

#[test]
fn a_load_by_each_call_arrives_once() {
    story("a_load_by_each_call_arrives_once", 2, async |iam| {
        let stage = &iam.api.stage;
        let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
        for target in [
            cluster("main", Some("loader")),
            cluster("main", None),
            workgroup("analytics"),
        ] {
            let table = stage.server.table();
            let mut handoff = stage.handoff_by(iam.access(target), &table);
            let round = handoff.settle(&state, PATIENCE).await.unwrap();
            assert_eq!(round.batches, 2);
            assert_eq!(stage.loaded(&table).await, expected);
        }
        let calls = [
            "GetClusterCredentials",
            "GetClusterCredentialsWithIAM",
            "GetCredentials",
        ];
        assert_eq!(iam.asked(), calls);
    });
}

/// What else goes to the warehouse goes the same way, declared in a pipeline's file.
#[test]
fn removals_and_models_go_by_it_too() {
    story("removals_and_models_go_by_it_too", 3, async |mut iam| {
        let faults = [(Fault::LoseBeforeCommit, false), (Fault::LoseAfterCommit, true)];
        let access = iam.access(workgroup("analytics"));
        expire_through(&iam.api.stage, &access, &faults).await;
        let declared = format!(
            "dsn: \"postgres://{}/dev\", iam: {{cluster: main, db_user: loader, endpoint: \"http://{}\"}}",
            iam.api.stage.simulator.address, iam.api.address
        );
        let faults = [Fault::LoseBeforeCommit, Fault::LoseAfterCommit];
        replace_periods_through(&mut iam.api.stage, &declared, &faults, 3).await;
    });
}

/// Each time the connection is lost between two loads. The login is used again, or was seen to be near its end, or is
/// refused: it ended while we held it for good.
#[test]
fn a_login_is_kept_until_it_ends() {
    story("a_login_is_kept_until_it_ends", 1, async |iam| {
        let stage = &iam.api.stage;
        for (number, (at_first, then, asked)) in [(0, 0, 1), (-3_540, -3_540, 2), (0, 7_200, 2)]
            .into_iter()
            .enumerate()
        {
            let before = iam.asked().len();
            let table = stage.server.table();
            let mut handoff = stage.handoff_by(iam.access(cluster("main", None)), &table);
            stage.simulator.set_clock(at_first);
            handoff
                .settle(&stage.bench.state().await, PATIENCE)
                .await
                .unwrap();
            stage.simulator.set_clock(then);
            stage.bench.fill(number + 1, 1, 20).await;
            stage.simulator.arm(Fault::LoseBeforeCommit);
            let round = handoff
                .settle(&stage.bench.state().await, PATIENCE)
                .await
                .unwrap();
            assert!(stage.simulator.has_happened() && round.batches == 1);
            assert_eq!(stage.loaded(&table).await, stage.bench.ids().await);
            assert_eq!(iam.asked().len() - before, asked, "{at_first}, {then}");
        }
    });
}

#[test]
fn a_refused_login_is_told_and_asked_for_anew_by_the_next_try() {
    let name = "a_refused_login_is_told_and_asked_for_anew_by_the_next_try";
    story(name, 1, async |iam| {
        let stage = &iam.api.stage;
        let (table, state) = (stage.server.table(), stage.bench.state().await);
        let access = iam.access(cluster("main", Some("nobody")));
        let mut handoff = stage.handoff_by(access, &table);
        for tries in 1..=2 {
            let error = handoff.round(&state).await.unwrap_err();
            let text = error.text();
            assert!(
                text.contains("password authentication failed for user \"IAM:nobody\""),
                "{text}"
            );
            assert_eq!((error.kind(), error.is_retryable()), ("credentials", false));
            // The simulator's passwords hold this.
            assert!(!format!("{text} {error:?}").contains("&<"), "{text}");
            assert_eq!(iam.asked().len(), tries);
        }
    });
}

#[test]
fn what_aws_refuses_is_told() {
    story("what_aws_refuses_is_told", 1, async |mut iam| {
        for (target, says) in [
            (
                cluster("mian", None),
                "AWS gave no login to the warehouse: cluster `mian`: ClusterNotFound: Cluster mian not found.",
            ),
            (
                workgroup("other"),
                "workgroup `other`: ResourceNotFoundException: Workgroup other not found.",
            ),
        ] {
            let error = iam.refused(iam.access(target)).await;
            assert!(error.text().ends_with(says), "{}", error.text());
            assert_eq!((error.kind(), error.is_retryable()), ("refused", false));
        }
        iam.api.stage.bench.lake.s3.secret_access_key = Some(Secret::new("another".to_owned()));
        for (target, says) in [
            (
                cluster("main", Some("loader")),
                "user `loader` of cluster `main`: SignatureDoesNotMatch",
            ),
            (workgroup("analytics"), "InvalidSignatureException"),
        ] {
            let error = iam.refused(iam.access(target)).await;
            assert!(error.text().contains(says), "{}", error.text());
            assert_eq!((error.kind(), error.is_retryable()), ("credentials", false));
        }
        iam.api.stage.bench.lake.s3.region = None;
        let error = iam.refused(iam.access(workgroup("analytics"))).await;
        assert!(
            error.text().contains("warehouse.redshift.iam.region"),
            "{}",
            error.text()
        );
    });
}

#[test]
fn a_password_that_aws_gives_goes_over_tls_only() {
    story("a_password_that_aws_gives_goes_over_tls_only", 1, async |iam| {
        let (listen, dsn) = ("127.0.0.1:0".parse().unwrap(), iam.api.stage.server.dsn.clone());
        let plain = Simulator::start(listen, dsn, HashMap::new()).await.unwrap();
        let error = iam
            .refused(iam.access_at(plain.address, cluster("main", None)))
            .await;
        assert!(error.text().contains("does not support TLS"), "{}", error.text());
    });
}
