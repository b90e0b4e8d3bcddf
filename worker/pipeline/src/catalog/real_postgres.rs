//! The PostgreSQL statements, run by a real PostgreSQL: twice, for they must be repeatable.
//!
//! The server listens on a Unix socket in a temporary folder and nowhere else; it runs as `postgres` where the tests
//! run as root. Without PostgreSQL's programs on this machine the test says so and passes; `make test` installs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::ddl;
use super::tests::hostile;

struct Server {
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Self> {
        let mut programs: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .flatten()
            .map(|version| version.path().join("bin"))
            .filter(|folder| folder.join("initdb").exists())
            .collect();
        programs.sort();
        let server = Self {
            programs: programs.pop()?,
            folder: tempfile::tempdir().unwrap(),
        };
        if is_root() {
            let owned = Command::new("chown")
                .arg("postgres")
                .arg(server.folder.path())
                .output();
            assert!(owned.unwrap().status.success());
        }
        let data = server.data();
        server.run(
            "initdb",
            &["-A", "trust", "-U", "postgres", "--no-sync", "-D", &data],
        );
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}'",
            server.socket()
        );
        let log = format!("{}/log", server.socket());
        server.run(
            "pg_ctl",
            &["-D", &data, "-o", &options, "-l", &log, "-w", "start"],
        );
        Some(server)
    }

    fn data(&self) -> String {
        format!("{}/data", self.socket())
    }

    fn socket(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        // Inherited pipes would be kept open by the server: it has a log file of its own.
        let output = command
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", program.display());
        output
    }

    fn sql(&self, sql: &str) -> String {
        let socket = self.socket();
        let arguments = [
            "-h",
            &socket,
            "-U",
            "postgres",
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ];
        String::from_utf8(self.run("psql", &arguments).stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"]);
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|own| own.uid() == 0)
}

#[test]
fn postgresql_makes_the_table_with_the_files_columns_in_their_order() {
    let Some(server) = Server::start() else {
        eprintln!("PostgreSQL is not installed here: its statements were not run");
        return;
    };
    let pipeline = hostile();
    let statements = ddl::postgres(&pipeline);
    server.sql("CREATE SCHEMA analytics");
    server.sql(&statements);
    server.sql(&statements);

    let columns = server.sql(
        "SELECT column_name || ':' || data_type FROM information_schema.columns
         WHERE table_schema = 'analytics' AND table_name = 'order' ORDER BY ordinal_position",
    );
    let expected = [
        "event_time:timestamp with time zone",
        "user:text",
        "Ünïcode \"x\":jsonb",
        "flag:boolean",
        "small:integer",
        "big:bigint",
        "ratio:double precision",
        "price:numeric",
        "day:date",
        "order:jsonb",
        "address:text",
        "date:date",
        "hour:integer",
        "source:text",
    ];
    assert_eq!(columns.lines().collect::<Vec<_>>(), expected);

    let comment = server.sql("SELECT col_description('analytics.\"order\"'::regclass, 2)");
    assert!(
        comment.contains("it's <script>") && comment.contains("Personal data (email address)"),
        "{comment}"
    );

    // A batch is loaded once: the ledger refuses the second row.
    let load = "INSERT INTO analytics.millrace_loads (pipeline, batch, attempt, manifest_digest, \"rows\")
                VALUES ('p', 'b', 'e1a1', 'd', 1) ON CONFLICT DO NOTHING RETURNING batch";
    assert_eq!(server.sql(load).trim(), "b");
    assert_eq!(server.sql(load).trim(), "");
}
