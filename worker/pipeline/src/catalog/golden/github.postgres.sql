-- Loads make the partitions: one for each day (UTC) of their events, and some days ahead.
CREATE TABLE IF NOT EXISTS github (
    event_id text NOT NULL,
    event_time timestamptz NOT NULL,
    actor text,
    repo_id bigint,
    repo_url text,
    repo text,
    org text,
    kind text NOT NULL,
    payload jsonb,
    is_bot boolean,
    date date NOT NULL,
    hour integer NOT NULL,
    source text
)
PARTITION BY RANGE (event_time);

CREATE INDEX IF NOT EXISTS github_event_time ON github USING brin (event_time);

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
    pipeline text NOT NULL,
    batch text NOT NULL,
    attempt text NOT NULL,
    manifest_digest text NOT NULL,
    "rows" bigint NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, batch)
);
