-- Sort key event_time: the event time. Blocks outside of a query range are skipped, so its first column stays raw.
-- No dist_key is declared: Redshift chooses. The dedup key event_id would spread rows evenly, a column that joins go by would keep them together.
CREATE TABLE IF NOT EXISTS github (
    event_id VARCHAR(65535) ENCODE zstd NOT NULL,
    event_time TIMESTAMPTZ ENCODE raw NOT NULL,
    actor VARCHAR(65535) ENCODE zstd,
    repo_id BIGINT ENCODE az64,
    repo_url VARCHAR(65535) ENCODE zstd,
    repo VARCHAR(65535) ENCODE zstd,
    org VARCHAR(65535) ENCODE zstd,
    kind VARCHAR(65535) ENCODE zstd NOT NULL,
    payload SUPER ENCODE zstd,
    is_bot BOOLEAN ENCODE zstd,
    date DATE ENCODE az64 NOT NULL,
    hour INTEGER ENCODE bytedict NOT NULL,
    source VARCHAR(65535) ENCODE zstd
)
DISTSTYLE AUTO
COMPOUND SORTKEY (event_time);

COMMENT ON COLUMN github.event_id IS 'GitHub''s id of the event; a hash for formats without one';
COMMENT ON COLUMN github.event_time IS 'When it happened';
COMMENT ON COLUMN github.actor IS 'Who did it: the account''s login. Personal data (name): outside prod, replaced by a keyed code; equal values get equal codes';
COMMENT ON COLUMN github.repo_id IS 'GitHub''s number of the repository';
COMMENT ON COLUMN github.repo_url IS 'Address of the repository: the API''s, or the page in old formats';
COMMENT ON COLUMN github.repo IS 'Repository as owner/name';
COMMENT ON COLUMN github.org IS 'Organisation that owns the repository';
COMMENT ON COLUMN github.kind IS 'What happened: PushEvent, IssuesEvent, ...';
COMMENT ON COLUMN github.payload IS 'Details by kind, as they came. Personal data (free text): outside prod, replaced by [redacted]';
COMMENT ON COLUMN github.is_bot IS 'Whether the account is an app''s';
COMMENT ON COLUMN github.date IS 'Day of the event time, UTC';
COMMENT ON COLUMN github.hour IS 'Hour of the event time, UTC, 0 to 23';
COMMENT ON COLUMN github.source IS 'Where the event comes from, as the lake''s folders are named';

CREATE TABLE IF NOT EXISTS millrace_loads (
    pipeline VARCHAR(63) NOT NULL ENCODE zstd,
    batch VARCHAR(63) NOT NULL ENCODE raw,
    attempt VARCHAR(63) NOT NULL ENCODE zstd,
    manifest_digest VARCHAR(64) NOT NULL ENCODE zstd,
    "rows" BIGINT NOT NULL ENCODE az64,
    loaded_at TIMESTAMPTZ NOT NULL DEFAULT SYSDATE ENCODE az64,
    PRIMARY KEY (pipeline, batch)
)
DISTSTYLE ALL
COMPOUND SORTKEY (batch);
