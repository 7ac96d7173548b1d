-- Rows for the shop, from nothing. `lab.scale` says how many: at 1, some hundred thousand in all. Keys and triggers are
-- not looked at while loading: what is generated fits by construction, and the keys are checked when they are added.
SET LOCAL session_replication_role = replica;
SET LOCAL synchronous_commit = off;

-- At least a few, so that every table has rows at the smallest scale.
CREATE FUNCTION pg_temp.n(rows numeric) RETURNS integer LANGUAGE sql IMMUTABLE AS
    $$SELECT greatest(20, rows * current_setting('lab.scale')::numeric)::integer$$;

INSERT INTO customers (email, name, tier, tags, preferences, legacy_code, created_at)
SELECT 'customer' || i || '@example.org',
    (ARRAY['Ada', 'Bela', 'Çelik', 'Dana', 'Ève', 'Finn', 'Gül', 'Håkon'])[1 + i % 8] || ' ' || (ARRAY['Weiß', 'O''Neil', 'Sørensen', 'Kaya', 'Łuk'])[1 + i % 5],
    (ARRAY['basic', 'basic', 'silver', 'gold'])[1 + i % 4]::customer_tier,
    ARRAY['tag' || i % 7, 'tag' || i % 11],
    jsonb_build_object('newsletter', i % 3 = 0, 'language', (ARRAY['de', 'en', 'tr'])[1 + i % 3]),
    CASE WHEN i % 2 = 0 THEN 'L-' || i END,
    '2024-01-01 00:00+00'::timestamptz + i * interval '7 minutes'
FROM generate_series(1, pg_temp.n(20000)) AS i;

INSERT INTO addresses (customer_id, street, city, postcode)
SELECT 1 + i % pg_temp.n(20000), 'Street ' || i % 997, 'City ' || i % 89, lpad((i % 99999)::text, 5, '0')
FROM generate_series(1, pg_temp.n(25000)) AS i;

INSERT INTO categories (parent_id, name, path)
SELECT CASE WHEN i > 10 THEN 1 + i % 10 END, 'Category ' || i, ARRAY['all', 'c' || i % 10, 'c' || i]
FROM generate_series(1, 20) AS i;

INSERT INTO products (category_id, sku, name, price, attributes)
SELECT 1 + i % 20, 'SKU-' || lpad(i::text, 8, '0'), 'Product ' || i, (i % 9973) / 100.0,
    jsonb_build_object('color', (ARRAY['red', 'green', 'blue'])[1 + i % 3], 'weight', i % 500)
FROM generate_series(1, pg_temp.n(4000)) AS i;

INSERT INTO warehouse.sites VALUES (1, 'North', '{"[8,18)"}'), (2, 'South', '{"[6,12)","[13,20)"}');

INSERT INTO warehouse.stock
SELECT site, product, (product * 13 + site) % 1000 FROM generate_series(1, 2) AS site, generate_series(1, pg_temp.n(4000)) AS product;

INSERT INTO orders (customer_id, status, total_cents, shipping, note, placed_at, updated_at)
SELECT 1 + (i * 31::bigint) % pg_temp.n(20000), (ARRAY['new', 'paid', 'packed', 'shipped', 'returned'])[1 + i % 5]::order_status, 100 + i % 50000,
    jsonb_build_object('carrier', 'c' || i % 4), CASE WHEN i % 9 = 0 THEN 'Ring twice, "please"' END, at, at
FROM generate_series(1, pg_temp.n(60000)) AS i, LATERAL (SELECT '2024-02-01 00:00+00'::timestamptz + i * interval '11 minutes') AS t (at);

INSERT INTO order_items
SELECT 1 + i / 2, 1 + i % 2, 1 + (i * 17::bigint) % pg_temp.n(4000), 1 + i % 4, (i % 9973) / 100.0
FROM generate_series(0, 2 * pg_temp.n(60000) - 1) AS i;

INSERT INTO payments (id, order_id, method, amount_cents, paid_at)
SELECT md5('payment ' || i)::uuid, i, (ARRAY['card', 'transfer', 'voucher'])[1 + i % 3]::payment_method, 100 + i % 50000, '2024-02-01 00:00+00'::timestamptz + i * interval '11 minutes'
FROM generate_series(1, pg_temp.n(50000)) AS i;

INSERT INTO order_events (at, order_id, kind, detail)
SELECT '2024-02-01 00:00+00'::timestamptz + i * interval '13 minutes', 1 + i % pg_temp.n(60000), (ARRAY['placed', 'paid', 'sent'])[1 + i % 3], jsonb_build_object('n', i)
FROM generate_series(1, pg_temp.n(60000)) AS i;

INSERT INTO reviews (product_id, customer_id, stars, body)
SELECT 1 + i % pg_temp.n(4000), 1 + i % pg_temp.n(20000), 1 + i % 5, repeat('good ', i % 20)
FROM generate_series(1, pg_temp.n(20000)) AS i;

INSERT INTO coupons
SELECT 'SAVE' || i, 1 + i % 100, daterange('2024-01-01'::date + i, '2024-03-01'::date + i), ARRAY[i % 20, i % 7]
FROM generate_series(1, 200) AS i;

INSERT INTO support_tickets (customer_id, subject, channel, closed)
SELECT 1 + i % pg_temp.n(20000), 'Where is order ' || i || '?', (ARRAY['mail', 'phone', 'web'])[1 + i % 3], i % 4 > 0
FROM generate_series(1, pg_temp.n(10000)) AS i;

INSERT INTO "Gift Cards" SELECT 'GC ' || i, i % 100, i % 3 > 0 FROM generate_series(1, pg_temp.n(1000)) AS i;
