-- Sessions by the hour of their last event, as sums: what a dashboard shows of a day or a month is added up from them. The
-- sessions themselves are a row each: one for every few events.
SELECT
  date_trunc('hour', ended_at) AS hour,
  count(*) AS sessions,
  sum(events) AS events,
  sum(CAST(floor(date_part('epoch', ended_at)) AS BIGINT) - CAST(floor(date_part('epoch', started_at)) AS BIGINT)) AS seconds,
  sum(orders) AS orders,
  sum(CASE WHEN orders > 0 THEN 1 ELSE 0 END) AS with_orders,
  sum(revenue) AS revenue
FROM sessions
GROUP BY date_trunc('hour', ended_at)
