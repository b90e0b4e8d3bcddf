-- How many visitors of a channel came from a view to the cart to an order within the day, in this order.
WITH seen AS (
  SELECT channel, user_id, event_time, event_type,
    bool_or(event_type = 'view') OVER (PARTITION BY channel, user_id ORDER BY event_time) AS viewed
  FROM events
  WHERE user_id IS NOT NULL AND event_type IN ('view', 'add_to_cart', 'purchase')
),
filled AS (
  SELECT *,
    bool_or(viewed AND event_type = 'add_to_cart') OVER (PARTITION BY channel, user_id ORDER BY event_time) AS carted
  FROM seen
),
visitors AS (
  SELECT channel, user_id, bool_or(viewed) AS viewed, bool_or(carted) AS carted,
    bool_or(carted AND event_type = 'purchase') AS ordered
  FROM filled
  GROUP BY channel, user_id
)
SELECT
  channel,
  count(*) AS viewed,
  sum(CASE WHEN carted THEN 1 ELSE 0 END) AS carted,
  sum(CASE WHEN ordered THEN 1 ELSE 0 END) AS ordered
FROM visitors
WHERE viewed
GROUP BY channel
