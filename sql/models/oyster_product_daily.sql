-- Taps and fares (pence) per day of service and product. The average is of doubles, which hold
-- whole pence exactly, so that it is the same double as in any other engine.
CREATE MATERIALIZED VIEW oyster_product_daily AS
SELECT service_date,
       product,
       count(*) AS taps,
       sum(fare) AS fare,
       avg(fare::double precision) AS fare_avg
FROM oyster_taps
WHERE product IS NOT NULL
GROUP BY service_date, product;
