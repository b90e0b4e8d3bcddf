-- Last touch: an order belongs to the campaign that led its buyer here last, within the day before the period.
WITH touches AS (
  SELECT user_id, event_id, event_time, event_type, price, quantity,
    nullif(split_part(split_part(url, 'utm_campaign=', 2), '&', 1), '') AS campaign
  FROM events
  WHERE user_id IS NOT NULL
),
attributed AS (
  SELECT user_id, event_time, event_type, price, quantity,
    last_value(campaign) IGNORE NULLS OVER (
      PARTITION BY user_id ORDER BY event_time, event_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS campaign
  FROM touches
)
SELECT
  coalesce(campaign, 'none') AS campaign,
  count(*) AS orders,
  count(DISTINCT user_id) AS buyers,
  sum(CAST(price * quantity AS DECIMAL(12, 2))) AS revenue
FROM attributed
WHERE event_type = 'purchase' AND event_time >= $start
GROUP BY coalesce(campaign, 'none')
