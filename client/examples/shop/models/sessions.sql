-- A session is a visitor's events without a pause of half an hour. It belongs to the day in which it is known to be over,
-- half an hour after its last event; so one that goes over midnight is whole, and stands in one day. The model looks back
-- twelve hours: of a session that is longer, what lies before is cut off.
--
-- Channels are counted by a grouping of their own, which goes to disk when there is not enough memory; count(DISTINCT channel) would
-- keep a set for each session in memory, of 34 KB and more.
WITH marked AS (
  SELECT user_id, event_id, event_time, event_type, channel, price, quantity,
    CASE WHEN event_time <= lag(event_time) OVER (PARTITION BY user_id ORDER BY event_time, event_id)
                            + INTERVAL '30 minutes'
         THEN 0 ELSE 1 END AS begins
  FROM events
  WHERE user_id IS NOT NULL
),
numbered AS (
  SELECT *, sum(begins) OVER (PARTITION BY user_id ORDER BY event_time, event_id) AS session
  FROM marked
),
by_channel AS (
  SELECT
    user_id,
    session,
    channel,
    min(event_time) AS started_at,
    max(event_time) AS ended_at,
    count(*) AS events,
    sum(CASE WHEN event_type = 'view' THEN 1 ELSE 0 END) AS views,
    sum(CASE WHEN event_type = 'purchase' THEN 1 ELSE 0 END) AS orders,
    sum(CASE WHEN event_type = 'purchase' THEN CAST(price * quantity AS DECIMAL(12, 2)) ELSE 0 END) AS revenue
  FROM numbered
  GROUP BY user_id, session, channel
)
SELECT
  user_id,
  min(started_at) AS started_at,
  max(ended_at) AS ended_at,
  sum(events) AS events,
  count(channel) AS channels,
  sum(views) AS views,
  sum(orders) AS orders,
  sum(revenue) AS revenue
FROM by_channel
GROUP BY user_id, session
HAVING max(ended_at) + INTERVAL '30 minutes' >= $start
   AND max(ended_at) + INTERVAL '30 minutes' < $end
