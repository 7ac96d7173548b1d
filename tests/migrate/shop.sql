-- A little of everything that a catalogue can hold.
CREATE SCHEMA shop;
CREATE SCHEMA "Odd ""Schema""";
CREATE EXTENSION citext;
CREATE TYPE shop.status AS ENUM ('new', 'it''s paid', 'sent');
CREATE DOMAIN shop.email AS varchar(80) NOT NULL CHECK (VALUE ~ '@');
CREATE TYPE shop.place AS (street text, "No" integer);
CREATE TYPE shop.prices AS RANGE (subtype = numeric);
CREATE TABLE shop.customer (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email shop.email UNIQUE,
    nick citext,
    home shop.place,
    kind varchar(10) DEFAULT 'plain' CHECK (kind IN ('plain', 'big', 'own er')),
    "Upper Case" text COLLATE "C",
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE shop.item (
    id bigserial PRIMARY KEY,
    sku text NOT NULL,
    price numeric(8, 2) NOT NULL CHECK (price > 0),
    gross numeric GENERATED ALWAYS AS (round(price * 1.2, 2)) STORED,
    tags text[],
    during shop.prices,
    doc jsonb,
    EXCLUDE USING gist (during WITH &&)
);
CREATE UNIQUE INDEX item_sku ON shop.item (sku);
CREATE INDEX item_lower ON shop.item (lower(sku)) WHERE price > 10;
ALTER TABLE shop.item REPLICA IDENTITY USING INDEX item_sku;
CREATE TABLE shop.orders (
    id bigint NOT NULL,
    placed date NOT NULL,
    customer integer REFERENCES shop.customer DEFERRABLE INITIALLY DEFERRED,
    state shop.status NOT NULL DEFAULT 'new',
    PRIMARY KEY (id, placed)
) PARTITION BY RANGE (placed);
CREATE TABLE shop.orders_old PARTITION OF shop.orders FOR VALUES FROM (MINVALUE) TO ('2026-01-01') PARTITION BY HASH (id);
CREATE TABLE shop.orders_old_0 PARTITION OF shop.orders_old FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE shop.orders_new PARTITION OF shop.orders DEFAULT;
CREATE TABLE shop.refund (order_id bigint, placed date, FOREIGN KEY (order_id, placed) REFERENCES shop.orders);
ALTER TABLE shop.refund REPLICA IDENTITY FULL;
CREATE TABLE shop.later (a integer PRIMARY KEY DEFERRABLE);
CREATE TABLE shop.parent (id integer PRIMARY KEY, a text);
CREATE TABLE shop.child (b text, PRIMARY KEY (id)) INHERITS (shop.parent);
CREATE UNLOGGED TABLE shop.cart (id integer PRIMARY KEY);
CREATE TABLE "Odd ""Schema"""."Tä ble" ("ID" integer PRIMARY KEY, "it's" text DEFAULT 'it''s');
CREATE VIEW shop.big AS SELECT c.id, o.id AS order_id FROM shop.customer c JOIN shop.orders o ON o.customer = c.id
    WHERE c.kind IN ('big', 'own er');
CREATE MATERIALIZED VIEW shop.totals AS SELECT state, count(*) AS n FROM shop.orders GROUP BY state;
CREATE UNIQUE INDEX totals_state ON shop.totals (state);
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.created := now();
    RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE UPDATE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE FUNCTION shop.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER noted AFTER INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.noted();
CREATE FUNCTION shop.twice(a integer) RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT (a + 0) * 2; END;
CREATE AGGREGATE shop.longest(text) (SFUNC = textcat, STYPE = text);
CREATE PROCEDURE shop.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE RULE no_delete AS ON DELETE TO shop.parent DO INSTEAD NOTHING;
ALTER TABLE shop.parent ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.parent USING (a IN ('x', 'y'));
CREATE STATISTICS shop.item_stats ON sku, price FROM shop.item;
CREATE SEQUENCE shop.numbers INCREMENT -5 MAXVALUE 1000 MINVALUE -10 START 10 CYCLE;
-- What never counts.
CREATE SCHEMA greenlight;
CREATE TABLE greenlight.marker (id integer);
CREATE FUNCTION greenlight.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER greenlight_fence BEFORE INSERT ON shop.item FOR EACH STATEMENT EXECUTE FUNCTION greenlight.fence();
