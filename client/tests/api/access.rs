//! Tokens, roles, TLS in both directions.

use millrace_client::{Client, ClientError, Options, Tls, v1};
use millrace_coordinator::api::{ApiConfig, Role, Tls as ServerTls, Token};
use millrace_loadtest::papers::Papers as Issued;
use tonic::Code;

use crate::cluster::{Node, files_pipeline, submit};
use crate::server::Server;

/// Certificates, as servers and callers take them.
struct Papers {
    issued: Issued,
    _folder: tempfile::TempDir,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued = Issued::issue(folder.path()).unwrap();
        Self {
            issued,
            _folder: folder,
        }
    }

    fn pem(&self, name: &str) -> Vec<u8> {
        self.issued.pem(name).unwrap()
    }

    fn server(&self, mutual: bool) -> ServerTls {
        ServerTls {
            certificate: self.pem("server.pem"),
            key: self.pem("server.key"),
            ca: self.pem("ca.pem"),
            client_ca: mutual.then(|| self.pem("ca.pem")),
            domain: None,
        }
    }

    fn client(&self, ca: &str, identity: Option<&str>) -> Tls {
        let identity =
            identity.map(|name| (self.pem(&format!("{name}.pem")), self.pem(&format!("{name}.key"))));
        Tls {
            ca: self.pem(ca),
            identity,
            domain: None,
        }
    }
}

fn tokens(config: &mut ApiConfig) {
    for (name, role) in [
        ("vera", Role::Viewer),
        ("olaf", Role::Operator),
        ("ada", Role::Admin),
    ] {
        config.tokens.push(Token {
            name: name.to_owned(),
            role,
            hash: blake3::hash(format!("token of {name}").as_bytes()),
        });
    }
}

async fn as_who(node: &Node, who: &str, tls: Option<Tls>) -> Result<Client, ClientError> {
    let mut options = Options::new([node.address.to_string()]);
    options.token = (!who.is_empty()).then(|| format!("token of {who}"));
    options.tls = tls;
    options.deadline = std::time::Duration::from_secs(5);
    Client::connect(options).await
}

/// Done, or the reason.
fn outcome<T>(result: Result<T, ClientError>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(ClientError::Refused(refusal)) => refusal.reason,
        Err(other) => other.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_on_every_method_at_leaders_and_followers() {
    let server = Server::start(1).await;
    let leader = Node::start(&server, "c1", tokens).await;
    leader.leads().await;
    let follower = Node::start(&server, "c2", tokens).await;
    let ada = as_who(&leader, "ada", None).await.unwrap();
    let apply = v1::ApplyPipelineRequest {
        text: files_pipeline("shop", "/events", "/lake"),
        ..Default::default()
    };
    ada.apply_pipeline(apply.clone()).await.unwrap();
    let job = ada.submit_job(submit("shop")).await.unwrap().job_id;
    let check = v1::CheckPipelineRequest {
        text: apply.text.clone(),
        ..Default::default()
    };
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let hold = v1::PlaceHoldRequest {
        pipeline: "shop".to_owned(),
        from: at(0),
        to: at(3600),
        reason: "a court asks".to_owned(),
        ..Default::default()
    };
    for node in [&leader, &follower] {
        for (who, runs, changes) in [
            ("", "TOKEN_MISSING", "TOKEN_MISSING"),
            ("nobody", "TOKEN_UNKNOWN", "TOKEN_UNKNOWN"),
            ("vera", "ROLE_TOO_LOW", "ROLE_TOO_LOW"),
            ("olaf", "done", "ROLE_TOO_LOW"),
            ("ada", "done", "done"),
        ] {
            let client = as_who(node, who, None).await.unwrap();
            let reads = if runs.starts_with("TOKEN") { runs } else { "done" };
            let at = format!("{who} at {}", node.name);
            assert_eq!(outcome(client.get_job(&job).await), reads, "{at}");
            assert_eq!(outcome(client.list_jobs("").await), reads, "{at}");
            assert_eq!(outcome(client.list_pipelines().await), reads, "{at}");
            assert_eq!(outcome(client.cluster().await), reads, "{at}");
            assert_eq!(outcome(client.check_pipeline(check.clone()).await), reads, "{at}");
            assert_eq!(outcome(client.apply_retention("shop").await), runs, "{at}");
            assert_eq!(outcome(client.place_hold(hold.clone()).await), changes, "{at}");
            let submitted = client.submit_job(submit("shop")).await;
            if let Ok(job) = &submitted {
                assert_eq!(job.submitter, who);
            }
            assert_eq!(outcome(submitted), runs, "{at}");
            assert_eq!(outcome(client.redrive_quarantine("shop", "").await), runs, "{at}");
            assert_eq!(outcome(client.cancel_job(&job).await), runs, "{at}");
            assert_eq!(outcome(client.retry_job(&job).await), runs, "{at}");
            let missing = if runs == "done" { "WORKER_NOT_FOUND" } else { runs };
            assert_eq!(outcome(client.drain_worker("w9").await), missing, "{at}");
            assert_eq!(
                outcome(client.apply_pipeline(apply.clone()).await),
                changes,
                "{at}"
            );
            let gone = if changes == "done" {
                "PIPELINE_NOT_FOUND"
            } else {
                changes
            };
            assert_eq!(outcome(client.delete_pipeline("nix").await), gone, "{at}");
        }
    }
    let vera = as_who(&leader, "vera", None).await.unwrap();
    let denied = vera.cancel_job(&job).await.unwrap_err();
    assert_eq!(denied.refusal().unwrap().code, Code::PermissionDenied);
    assert_eq!(denied.refusal().unwrap().facts["needed"], "operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_by_callers_and_between_coordinators_in_both_directions() {
    let (server, papers) = (Server::start(1).await, Papers::new());
    let mutual = |config: &mut ApiConfig| {
        config.tls = Some(papers.server(true));
        tokens(config);
    };
    let leader = Node::start(&server, "c1", mutual).await;
    leader.leads().await;
    let follower = Node::start(&server, "c2", mutual).await;
    for node in [&leader, &follower] {
        let known = as_who(node, "ada", Some(papers.client("ca.pem", Some("client"))))
            .await
            .unwrap();
        assert_eq!(known.cluster().await.unwrap().leader.unwrap().name, "c1");
    }
    // Refused at the handshake, or at the first word after it.
    let turned_away = async |who: &str, tls: Option<Tls>| match as_who(&leader, who, tls).await {
        Ok(client) => client.cluster().await.is_err(),
        Err(_) => true,
    };
    assert!(
        turned_away("ada", Some(papers.client("ca.pem", None))).await,
        "no certificate"
    );
    assert!(
        turned_away("ada", Some(papers.client("ca.pem", Some("foreign")))).await,
        "a stranger's certificate"
    );
    assert!(
        turned_away("ada", Some(papers.client("stranger.pem", Some("client")))).await,
        "we do not trust it"
    );
    assert!(turned_away("ada", None).await, "in the clear");
    assert!(
        turned_away("", Some(papers.client("ca.pem", Some("client")))).await,
        "no token"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_needs_no_token_and_reflection_names_the_services() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let server = Server::start(1).await;
    let node = Node::start(&server, "c1", tokens).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "millrace.v1.JobService", "millrace.v1.ClusterService"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
        assert_eq!(answer.status(), serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let list = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let ask = |token: &str| {
        let mut request = tonic::Request::new(futures::stream::iter([list.clone()]));
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    assert!(reflection.server_reflection_info(ask("nobody")).await.is_err());
    let mut answers = reflection
        .server_reflection_info(ask("token of vera"))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = services
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in ["Job", "Pipeline", "Quarantine", "Cluster"] {
        assert!(
            names.contains(&format!("millrace.v1.{name}Service").as_str()),
            "{names:?}"
        );
    }
}
