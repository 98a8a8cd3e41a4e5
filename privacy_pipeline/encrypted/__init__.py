"""Encrypted inference by three-party computation: conversion, private prediction, and its threat model."""
