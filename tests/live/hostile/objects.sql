-- What a role that may create objects can leave where others meet it without naming it. Run as that role, after the overloads.

CREATE FUNCTION public.planted_trigger() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM public.planted(TG_NAME); IF TG_LEVEL = ''ROW'' THEN RETURN NEW; END IF; RETURN NULL; END';
CREATE FUNCTION public.planted_constant(what text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM public.planted(what); RETURN 1; END';

-- A type with a cast of its owner's.
CREATE TYPE public.mood AS ENUM ('bad', 'good', 'so', 'late');
CREATE FUNCTION public.mood_text(public.mood) RETURNS text LANGUAGE plpgsql AS
    'BEGIN PERFORM public.planted(''cast mood to text''); RETURN ''x''; END';
CREATE CAST (public.mood AS text) WITH FUNCTION public.mood_text(public.mood) AS ASSIGNMENT;
CREATE TABLE public.moody (mood public.mood PRIMARY KEY, other public.mood NOT NULL);
INSERT INTO public.moody VALUES ('bad', 'good'), ('good', 'bad'), ('so', 'so');

-- Views, and one that is named as an extension's table.
CREATE VIEW public.seen AS SELECT public.planted_constant('view') AS x;
CREATE SCHEMA cron;
CREATE VIEW cron.job AS SELECT 1 AS jobid, '* * * * *'::text AS schedule, 'x'::text AS command, true AS active, 'shop'::text AS database
    FROM public.planted('view cron.job');
