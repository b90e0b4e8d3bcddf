-- Orders and refunds of the hour, by where the buyer lives and how they came.
SELECT
  CASE WHEN country IN ('DE', 'AT', 'CH') THEN 'dach'
       WHEN country IN ('US', 'CA', 'AU', 'JP') THEN 'overseas'
       ELSE 'europe' END AS segment,
  channel,
  sum(CASE WHEN event_type = 'purchase' THEN 1 ELSE 0 END) AS orders,
  sum(CASE WHEN event_type = 'purchase' THEN quantity ELSE 0 END) AS pieces,
  sum(CASE WHEN event_type = 'purchase' THEN CAST(price * quantity AS DECIMAL(12, 2)) ELSE 0 END) AS revenue,
  sum(CASE WHEN event_type = 'refund' THEN CAST(price * quantity AS DECIMAL(12, 2)) ELSE 0 END) AS refunded
FROM events
WHERE event_type IN ('purchase', 'refund')
GROUP BY 1, 2
