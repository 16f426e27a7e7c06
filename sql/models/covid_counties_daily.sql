-- New cases and deaths per county and day (UTC): what the day's last report has more than that of the
-- day before. Where a county takes counts back, they are negative.
CREATE MATERIALIZED VIEW covid_counties_daily WITH (allowed_lateness = '7 days') AS
SELECT tumble(interval '1 day') AS window,
       state,
       county,
       delta(cases) AS new_cases,
       delta(deaths) AS new_deaths
FROM covid_counties
GROUP BY window, state, county;
