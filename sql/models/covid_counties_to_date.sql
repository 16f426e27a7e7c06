-- Cases and deaths so far, by each county's latest report.
CREATE MATERIALIZED VIEW covid_counties_to_date WITH (primary_key = 'state, county') AS
SELECT state, county, fips, cases, deaths, last_update
FROM covid_counties;
